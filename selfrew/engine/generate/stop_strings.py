"""Finds the stop string that ends a sample."""


def find_stop(text, tokens: tuple, stop: tuple, start: int) -> tuple[int, str] | None:
    """(How many tokens until the first stop string is complete, the text before it), or None.

    text: the tokenizer. start: the number of leading tokens known to contain no stop string.
    """
    whole = text.decode(tokens)
    if not any(string in whole for string in stop):
        return None
    for count in range(start + 1, len(tokens) + 1):
        decoded = text.decode(tokens[:count])
        places = [decoded.index(string) for string in stop if string in decoded]
        if places:
            return count, decoded[: min(places)]
    return None
