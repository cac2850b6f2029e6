"""A request's name in a journal is the same in every run, and another one for any other content."""

import dataclasses

import numpy as np

from selfrew.engine.generate.options import Options, Request

OPTIONS = Options(12, 1.0, 0, 1.0, 0.0, ('7',), (2,))
REQUEST = Request((1, 5, 6), np.array([3, 4], np.uint32), OPTIONS)


def test_a_name_stays_the_same():
    """An old journal is found again only under the names that it was written with."""
    assert REQUEST.name() == '9626a70ef983a3f9602ba44927f4a544'


def test_any_other_content_has_another_name():
    names = {REQUEST.name()}
    names.add(dataclasses.replace(REQUEST, prompt=(1, 5)).name())
    names.add(dataclasses.replace(REQUEST, key_words=np.array([3, 5], np.uint32)).name())
    # What steers counts where there is something to steer by.
    steered = dataclasses.replace(OPTIONS, control='a scorer')
    names.add(dataclasses.replace(REQUEST, options=steered).name())
    for field in dataclasses.fields(Options):
        changed = dataclasses.replace(steered, **{field.name: 'other'})
        names.add(dataclasses.replace(REQUEST, options=changed).name())
    assert len(names) == 4 + len(dataclasses.fields(Options))
