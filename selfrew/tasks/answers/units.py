"""Units and scale words: their spellings, and which of them measure the same in other sizes."""

import re

SCALES = {
    'k': 10**3,
    'hundred': 10**2,
    'thousand': 10**3,
    'lakh': 10**5,
    'million': 10**6,
    'crore': 10**7,
    'billion': 10**9,
    'trillion': 10**12,
    'dozen': 12,
}
# Name -> spellings.
UNITS = {
    '%': '% percent pct percentage',
    'dollar': '$ usd dollar dollars us$ buck bucks',
    'cent': 'cent cents ¢',
    'euro': '€ eur euro euros',
    'pound sterling': '£ gbp',
    'yen': '¥ jpy yen',
    'rupee': '₹ rs inr rupee rupees',
    'degree': '° degree degrees',
    'degree celsius': '°c celsius centigrade',
    'degree fahrenheit': '°f fahrenheit',
    'radian': 'rad radian radians',
    'km': 'km kilometer kilometers kilometre kilometres',
    'm': 'm meter meters metre metres',
    'cm': 'cm centimeter centimeters centimetre centimetres',
    'mm': 'mm millimeter millimeters millimetre millimetres',
    'mile': 'mi mile miles',
    'yard': 'yd yds yard yards',
    'foot': 'ft foot feet',
    'inch': 'in inch inches',
    'kg': 'kg kgs kilogram kilograms kilo kilos',
    'g': 'g gram grams',
    'mg': 'mg milligram milligrams',
    'ton': 'ton tons tonne tonnes',
    'pound': 'lb lbs pound pounds',
    'ounce': 'oz ounce ounces',
    'litre': 'l liter liters litre litres',
    'ml': 'ml milliliter milliliters millilitre millilitres',
    'gallon': 'gal gallon gallons',
    'second': 's sec secs second seconds',
    'minute': 'min mins minute minutes',
    'hour': 'h hr hrs hour hours',
    'day': 'day days',
    'week': 'week weeks',
    'month': 'month months',
    'year': 'yr yrs year years',
    'mile/hour': 'mph',
    'km/hour': 'kmh kph',
    'newton': 'n',
    'joule': 'j',
    'watt': 'w',
    'volt': 'v',
}
# Units that one number cannot be given in alike.
DIMENSIONS = (
    frozenset('km m cm mm mile yard foot inch'.split()),
    frozenset('kg g mg ton pound ounce'.split()),
    frozenset('litre ml gallon'.split()),
    frozenset('second minute hour day week month year'.split()),
    frozenset('dollar cent'.split()),
    frozenset(('degree celsius', 'degree fahrenheit')),
    frozenset(('degree', 'radian')),
)
UNIT_NAMES = {spelling: name for name, texts in UNITS.items() for spelling in texts.split()}
GLUED_UNITS = frozenset(
    '% ° ¢ °c °f km cm mm mi yd yds ft kg kgs mg lb lbs oz ml gal sec secs min mins hr hrs mph kmh '
    'kph usd eur gbp'.split()
)
# Single letters that are units where a space is before them; others are variables.
UNIT_LETTERS = frozenset('m g s h l L J N W V'.split())


def are_other_units(first: str | None, second: str | None) -> bool:
    """Whether two units measure the same in other sizes: km and m, dollars and cents, m^2 and cm^2.

    Other units ('5 dollars' and '5 apples', '5 m' and '5 m^2') name the same number carelessly.
    """
    if not first or not second or first == second:
        return False
    names = [re.split(r'(\^\d|/)', unit) for unit in (first, second)]
    if len(names[0]) != len(names[1]) or names[0][1::2] != names[1][1::2]:
        return False
    return any(
        a != b and any({a, b} <= dimension for dimension in DIMENSIONS)
        for a, b in zip(names[0][::2], names[1][::2])
    )
