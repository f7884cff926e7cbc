"""Sources by name, and their options."""

import pickle

import pytest

from data_pipelines import sources
from data_pipelines.sources.procedural import ProceduralSource


def test_registry_knows_sources_by_name():
    source = sources.make("procedural", size=8, frames=10)
    assert source == ProceduralSource(size=8, frames=10)
    assert isinstance(source, sources.Source)
    with pytest.raises(ValueError, match=r"procedual.*did you mean 'procedural'"):
        sources.make("procedual")


def test_unknown_options_are_told_the_nearest():
    with pytest.raises(ValueError, match="'labmaze': unknown option 'gamma', expected one of"):
        sources.make("labmaze", gamma=0.6)
    with pytest.raises(ValueError, match="did you mean 'frames'"):
        sources.make("procedural", frame=10)


@pytest.mark.parametrize("name", sources.SOURCES)
def test_options_say_what_they_are_and_keep_their_range(name):
    options = sources.source_options(name)
    assert {"size", "frames", "fps"} <= set(options) and "rejected" not in options
    assert ("gamma" in options) == name.startswith("freedoom")
    source = sources.make(name)
    for option, field in options.items():
        assert field.metadata["help"]
        assert getattr(source, option) == field.default
        for bound, beyond in zip(field.metadata["range"], (-1, 1), strict=True):
            if bound is not None:
                assert getattr(sources.make(name, **{option: bound}), option) == bound
                with pytest.raises(ValueError, match=f"source '{name}': found {option}"):
                    sources.make(name, **{option: bound + beyond})


@pytest.mark.parametrize("name", sources.SOURCES)
def test_sources_travel_to_workers(name):
    source = sources.make(name, frames=12)
    assert pickle.loads(pickle.dumps(source)) == source != sources.make(name, frames=14)
