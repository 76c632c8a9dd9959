"""Settings: where they come from, and what is said of wrong ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adgovernor.app.settings import load
from adgovernor.contracts.errors import BadSettings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the machine that runs the tests, and no file beside them."""
    for name in os.environ:
        if name.startswith("ADGOVERNOR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_arguments_win_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each value comes from the nearest source that gives it; groups are merged, not replaced."""
    (tmp_path / "adgovernor.toml").write_text(
        'prefix = "file"\npartitions = 3\n[kafka]\nbootstrap_servers = "file:1"\nusername = "u"\n[redis]\nurl = "redis://file"\n'
    )
    monkeypatch.setenv("ADGOVERNOR_PREFIX", "env")
    monkeypatch.setenv("ADGOVERNOR_KAFKA__BOOTSTRAP_SERVERS", "env:1")
    monkeypatch.setenv("ADGOVERNOR_KAFKA__PASSWORD", "secret")
    settings = load(kafka={"bootstrap_servers": "given:1"}, prefix=None)

    assert (settings.prefix, settings.partitions) == ("env", 3)
    connection = settings.kafka.connection()
    assert (connection.bootstrap_servers, connection.username, connection.password) == (
        "given:1",
        "u",
        "secret",
    )
    assert settings.redis.config().hosts == (("file", 6379),)


@pytest.mark.parametrize(
    ("redis", "encrypted"),
    [
        ({"url": "redis://r:1/0"}, False),
        ({"url": "rediss://r:1/0"}, True),
        ({"url": "redis://r:1/0", "ca_file": "ca.pem"}, True),
        ({"url": "redis://r:1/0", "cert_file": "c.pem", "key_file": "c.key"}, True),
    ],
)
def test_files_for_tls_imply_tls(redis: dict[str, str], encrypted: bool) -> None:
    """Whoever names an authority or a certificate of Redis means its connection to be encrypted."""
    assert (load(redis=redis).redis.config().tls is not None) == encrypted


def test_workers_share_a_group() -> None:
    """The workers' group is named after the prefix unless it has a name of its own."""
    assert (load(prefix="p").worker_group, load(prefix="p", group="g").worker_group) == ("p.workers", "g")


def test_the_file_named_by_the_environment_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ADGOVERNOR_CONFIG names the file where no argument does."""
    (tmp_path / "other.toml").write_text('prefix = "other"\n')
    monkeypatch.setenv("ADGOVERNOR_CONFIG", str(tmp_path / "other.toml"))
    assert load().prefix == "other"


def test_rules_and_engine_are_parameters_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters of rules and engine are taken from their tables, numbers from text too."""
    monkeypatch.setenv("ADGOVERNOR_RULES__LATENESS_MS", "7000")
    monkeypatch.setenv("ADGOVERNOR_ENGINE__MAX_EVENTS", "5")
    settings = load(clock="events")
    assert settings.rules_for(4).lateness_ms == 7000
    assert settings.rules_for(4).partitions == 4
    engine = settings.engine_for(4)
    assert (engine.max_events, engine.partitions, engine.clock, engine.prefix) == (
        5,
        4,
        "events",
        "adgovernor",
    )


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ADGOVERNOR_PARTITIONS", "many", r"partitions: .*ADGOVERNOR_PARTITIONS"),
        ("ADGOVERNOR_PREFIX", "a/b", r"prefix: "),
        ("ADGOVERNOR_KAFKA__PASSWORT", "x", r"kafka\.passwort"),
        ("ADGOVERNOR_KAFKA__SASL_MECHANISM", "MD5", r"kafka\.sasl_mechanism"),
        ("ADGOVERNOR_ENGINE__NOPE", "1", r"engine: there is no nope; known are .*max_events"),
        ("ADGOVERNOR_ENGINE__PREFIX", "x", r"engine: .*prefix: set beside this table"),
        ("ADGOVERNOR_RULES__LATENESS_MS", "soon", r"rules\.lateness_ms: .*ADGOVERNOR_RULES__LATENESS_MS"),
        ("ADGOVERNOR_RULES__DEDUPE_MS", "1", r"dedupe_ms is 1"),
        ("ADGOVERNOR_KAKFA__USERNAME", "x", r"ADGOVERNOR_KAKFA__USERNAME names no setting"),
    ],
)
def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    """A wrong or misspelt setting stops the program and is named as it must be written."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadSettings, match=said):
        load()


@pytest.mark.parametrize("content", ["prefix = ", "\xff"], ids=["no toml", "no text"])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    """A file that is no TOML is named."""
    path = tmp_path / "x.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(BadSettings, match=r"x\.toml is no TOML"):
        load(path)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """No password is in what settings and connections show of themselves."""
    for name in ("KAFKA__PASSWORD", "KAFKA__KEY_PASSWORD", "REDIS__PASSWORD"):
        monkeypatch.setenv(f"ADGOVERNOR_{name}", "hunter2")
    monkeypatch.setenv("ADGOVERNOR_KAFKA__USERNAME", "worker")
    settings = load()
    assert "hunter2" not in repr(settings) + repr(settings.kafka.connection())
    assert settings.kafka.connection().client_options()["sasl_plain_password"] == "hunter2"


def test_redis_with_tls_and_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Redis address and the settings beside it become one configuration."""
    monkeypatch.setenv("ADGOVERNOR_REDIS__URL", "rediss+sentinel://a:1,b:2/main/3")
    monkeypatch.setenv("ADGOVERNOR_REDIS__PASSWORD", "p")
    monkeypatch.setenv("ADGOVERNOR_REDIS__CA_FILE", "/ca.pem")
    config = load().redis.config()
    assert (config.topology, config.master, config.db, config.password) == ("sentinel", "main", 3, "p")
    assert config.tls is not None
    assert config.tls.ca_file == "/ca.pem"


def test_a_group_that_is_no_object_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of a whole group that holds no JSON is a wrong setting, not a crash."""
    monkeypatch.setenv("ADGOVERNOR_RULES", "fast")
    with pytest.raises(BadSettings, match=r'field "rules".*one by one'):
        load()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('prefx = "x"\n', "no setting prefx .*is prefix meant"),
        (
            '[kafka]\nbotstrap_servers = "x"\n',
            "no setting kafka.botstrap_servers .*is bootstrap_servers meant",
        ),
        ("[redis]\ncolour = 1\n", "no setting redis.colour .*known are .*sentinel_username"),
    ],
)
def test_an_unknown_setting_says_what_may_be_meant(text: str, said: str, tmp_path: Path) -> None:
    """An unknown setting names the one that is near, or those that there are."""
    (tmp_path / "adgovernor.toml").write_text(text)
    with pytest.raises(BadSettings, match=said):
        load()
