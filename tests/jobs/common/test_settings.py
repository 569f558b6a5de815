"""Settings: strict, all errors at once, and every file in conf/ loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.common.settings import load_settings

REPO = Path(__file__).parents[3]
MINIMAL = """
[input]
events_uri = "e"
catalogue_uri = "c"
[event_types.buy]
"""


@pytest.mark.parametrize("file", sorted((REPO / "conf").glob("*.toml")), ids=lambda file: file.name)
def test_every_settings_file_of_the_repo_loads(file: Path) -> None:
    assert load_settings(str(file)).event_types


def test_all_errors_are_shown_at_once_with_their_keys(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(MINIMAL + 'weigth = 1\n[model.finetune]\nepochs = "many"\nepoch = 3\n')
    with pytest.raises(ValueError, match=r"bad\.toml has 3 error") as caught:
        load_settings(str(file))
    text = str(caught.value)
    assert "event_types.buy.weigth: there is no such setting; did you mean weight?" in text
    assert "model.finetune.epochs" in text
    assert "model.finetune.epoch: there is no such setting; did you mean epochs?" in text


def test_what_is_like_no_setting_is_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('colour = "red"\n' + MINIMAL)
    with pytest.raises(ValueError, match=r"colour: there is no such setting$"):
        load_settings(str(file))


def test_a_setting_of_the_whole_file_in_a_table_is_told_where_it_belongs(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(MINIMAL + '[model.decoding]\nmethod = "rsllm"\n')
    with pytest.raises(ValueError, match=r"decoding.method: .* here; method stands at the top of the file"):
        load_settings(str(file))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"nowhere\.toml does not exist"):
        load_settings("nowhere.toml")


def test_a_misspelt_variable_is_refused_and_a_strange_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "s.toml"
    file.write_text(MINIMAL)
    for variable in ("PRECOG_FEAST_HOME", "PRECOG_REDIS", "PRECOG_SERVICE_HOST"):
        monkeypatch.setenv(variable, "somebody's")
    load_settings(str(file))
    monkeypatch.setenv("PRECOG_METOD", "ttds")
    monkeypatch.setenv("PRECOG_PROMOTON__RULE", "gate")
    with pytest.raises(ValueError, match=r"PRECOG_METOD in .* mean PRECOG_METHOD") as caught:
        load_settings(str(file))
    assert "did you mean PRECOG_PROMOTION__RULE?" in str(caught.value)


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "s.toml"
    file.write_text('lake_uri = "from-file"\n' + MINIMAL)
    monkeypatch.setenv("PRECOG_LAKE_URI", "s3://bucket/lake")
    monkeypatch.setenv("PRECOG_MODEL__FINETUNE__EPOCHS", "7")
    monkeypatch.setenv("PRECOG_MODEL__FUSION__SIGNALS", '["teacher", "words"]')
    settings = load_settings(str(file))
    assert settings.lake_uri == "s3://bucket/lake"
    assert settings.model.finetune.epochs == 7
    assert settings.model.fusion.signals == ["teacher", "words"]
    assert settings.store_uri("codebook", "all") == "s3://bucket/lake/codebook/all"


def test_a_list_in_the_environment_that_is_no_json_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "s.toml"
    file.write_text(MINIMAL)
    monkeypatch.setenv("PRECOG_MODEL__FUSION__SIGNALS", "[teacher]")
    with pytest.raises(ValueError, match=r"model\.fusion\.signals: .* list"):
        load_settings(str(file))


def test_another_methods_language_model_is_no_signal_of_the_nightly_fusion(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('method = "rsllm"\n' + MINIMAL + '[model.fusion]\nsignals = ["rsllm", "teacher"]\n')
    with pytest.raises(ValueError, match=r'signals names rsllm.* its signal is "language_model"'):
        load_settings(str(file))


def test_without_a_target_there_is_nothing_to_learn(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(MINIMAL + "target = false\n")
    with pytest.raises(ValueError, match="no type has target = true"):
        load_settings(str(file))
