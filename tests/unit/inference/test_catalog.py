"""Which models a server has, in which state, and whether there is room."""

import pytest

from headrace.errors import NotFound, ResourceExhausted
from headrace.names import VersionName
from headrace_inference.core.catalog import MAX_FAILURES, Catalog, Key, Source, State

DIGITS = Key("default", "digits")


def source(number: int = 1, size_bytes: int = 10) -> Source:
    return Source(VersionName("default", "digits", number), "model.onnx", "", size_bytes)


def catalog(slots: int = 2, max_bytes: int = 100) -> Catalog[str]:
    return Catalog(slots, max_bytes)


def load(models: Catalog[str], key: Key = DIGITS, number: int = 1) -> str | None:
    models.begin_load(key, source(number))
    return models.finish_load(key, f"{key.model} {number}")


def states(models: Catalog[str], project: str | None = None) -> list[tuple[str, str, State]]:
    return [(one.key.model, one.source.number, one.state) for one in models.listings(project)]


def test_a_loaded_model_is_found_by_name_and_by_version() -> None:
    models = catalog()
    load(models, number=2)
    assert models.find(DIGITS) == models.find(DIGITS, "2") == "digits 2"


def test_another_version_is_not_found() -> None:
    models = catalog()
    load(models, number=2)
    with pytest.raises(NotFound, match="version '1' of model 'digits' is not loaded; version '2' is"):
        models.find(DIGITS, "1")


def test_a_model_of_another_project_is_not_found() -> None:
    models = catalog()
    load(models)
    with pytest.raises(NotFound, match="'digits' is not loaded in project 'other'; none is loaded"):
        models.find(Key("other", "digits"))


def test_while_another_version_loads_the_old_one_answers() -> None:
    models = catalog()
    load(models)
    models.begin_load(DIGITS, source(2))
    assert models.find(DIGITS) == "digits 1"
    assert states(models) == [("digits", "1", State.READY), ("digits", "2", State.LOADING)]


def test_after_the_switch_the_old_one_is_handed_out_to_be_drained() -> None:
    models = catalog()
    load(models)
    assert load(models, number=2) == "digits 1"
    assert states(models) == [("digits", "2", State.READY)]


def test_a_version_that_fails_leaves_the_old_one_in_place() -> None:
    models = catalog()
    load(models)
    models.begin_load(DIGITS, source(2))
    models.fail_load(DIGITS, "it is no model")
    assert models.find(DIGITS) == "digits 1"
    assert states(models) == [("digits", "1", State.READY), ("digits", "2", State.UNAVAILABLE)]


def test_who_asks_for_a_model_that_failed_is_told_why() -> None:
    models = catalog()
    models.begin_load(DIGITS, source())
    models.fail_load(DIGITS, "it is no model")
    with pytest.raises(NotFound, match="the last try ended with: it is no model"):
        models.find(DIGITS)


def test_only_so_many_failures_are_remembered() -> None:
    models = catalog()
    for number in range(MAX_FAILURES + 1):
        key = Key("default", f"m{number}")
        models.begin_load(key, source())
        models.fail_load(key, "it is no model")
    names = {one.key.model for one in models.listings()}
    assert len(names) == MAX_FAILURES
    assert "m0" not in names


def test_a_model_too_many_is_refused() -> None:
    models = catalog(slots=1)
    load(models)
    with pytest.raises(ResourceExhausted, match="has 1 models already"):
        load(models, Key("default", "text"))


def test_a_model_that_loads_takes_a_slot_and_one_that_failed_does_not() -> None:
    models = catalog(slots=1)
    models.begin_load(DIGITS, source())
    with pytest.raises(ResourceExhausted):
        models.begin_load(Key("default", "text"), source())
    models.fail_load(DIGITS, "it is no model")
    load(models, Key("default", "text"))


def test_the_full_server_still_switches_versions() -> None:
    models = catalog(slots=1)
    load(models)
    load(models, number=2)
    assert models.find(DIGITS) == "digits 2"


def test_files_too_large_together_are_refused() -> None:
    models = catalog(max_bytes=25)
    load(models)
    with pytest.raises(
        ResourceExhausted, match="the loaded models would have 30 bytes, more than the 25 allowed"
    ):
        models.begin_load(DIGITS, source(2, size_bytes=20))


def test_a_model_on_its_way_out_takes_no_requests() -> None:
    models = catalog()
    load(models)
    assert models.begin_unload(DIGITS) == "digits 1"
    assert states(models) == [("digits", "1", State.UNLOADING)]
    with pytest.raises(NotFound, match="is not loaded"):
        models.find(DIGITS)
    models.finish_unload(DIGITS)
    assert models.listings() == []


def test_unloading_a_failure_forgets_it() -> None:
    models = catalog()
    models.begin_load(DIGITS, source())
    models.fail_load(DIGITS, "it is no model")
    assert models.begin_unload(DIGITS) is None
    assert models.listings() == []


def test_unloading_what_is_not_there_is_an_error() -> None:
    with pytest.raises(NotFound):
        catalog().begin_unload(DIGITS)


def test_listings_are_by_name_and_by_project() -> None:
    models = catalog()
    load(models, Key("default", "text"))
    load(models, Key("default", "digits"))
    assert [name for name, _, _ in states(models, "default")] == ["digits", "text"]
    assert states(models, "other") == []


TEXT, TABLE = Key("default", "text"), Key("default", "table")


def in_the_way(models: Catalog[str], key: Key, size_bytes: int = 10, busy: str = "") -> list[str]:
    going = models.in_the_way(key, source(size_bytes=size_bytes), lambda served: served != busy)
    return [other.model for other in going]


def test_what_was_asked_for_longest_ago_makes_room_first() -> None:
    models = catalog(slots=2)
    load(models, DIGITS)
    load(models, TEXT)
    models.find(DIGITS)
    assert in_the_way(models, TABLE) == ["text"]


def test_a_model_in_use_stays() -> None:
    models = catalog(slots=2)
    load(models, DIGITS)
    load(models, TEXT)
    assert in_the_way(models, TABLE, busy="digits 1") == ["text"]


def test_only_as_many_go_as_have_to_and_none_in_vain() -> None:
    models = catalog(slots=9, max_bytes=35)
    for key in (DIGITS, TEXT, TABLE):
        load(models, key)
    other = Key("default", "other")
    assert in_the_way(models, other, size_bytes=5) == []
    assert in_the_way(models, other, size_bytes=20) == ["digits", "text"]
    assert in_the_way(models, other, size_bytes=36) == []


def test_a_loaded_model_counts_for_what_it_takes_not_for_its_file() -> None:
    models = catalog(max_bytes=100)
    models.begin_load(DIGITS, source(size_bytes=10))
    models.finish_load(DIGITS, "digits 1", held_bytes=95)
    with pytest.raises(ResourceExhausted, match="would have 105 bytes, more than the 100 allowed"):
        models.begin_load(TEXT, source(size_bytes=10))
