"""Settings: from the command line, the environment, a TOML file, in this order.

In the environment every name has the prefix ``ADGOVERNOR_``, and two underscores between a group and its member:
``ADGOVERNOR_KAFKA__BOOTSTRAP_SERVERS``. In the file, groups are tables::

    prefix = "prod"
    partitions = 16
    [kafka]
    bootstrap_servers = "kafka-1:9093,kafka-2:9093"
    ca_file = "/etc/adgovernor/ca.pem"
    username = "worker"
    [redis]
    url = "rediss://redis:6379/0"
    [engine]
    append_deadline_s = 5

Without ``--config`` or ``ADGOVERNOR_CONFIG``, ``adgovernor.toml`` in the working directory is read where it exists.
Passwords are best given by the environment.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from adgovernor.contracts.connections import KafkaConnection, SaslMechanism
from adgovernor.contracts.errors import BadSettings
from adgovernor.contracts.misspelt import alike
from adgovernor.core.rules import Rules
from adgovernor.runtime.settings import EngineSettings

if TYPE_CHECKING:
    from adgovernor.stores.redis_client import RedisConfig

ENVIRONMENT: Final = "ADGOVERNOR_"
CONFIG_VARIABLE: Final = "ADGOVERNOR_CONFIG"
DEFAULT_FILE: Final = "adgovernor.toml"

PREFIX: Final = r"^[A-Za-z0-9._-]{1,80}$"
"""What a deployment may be called, as Kafka names topics."""

_T = TypeVar("_T")
_BY_DEPLOYMENT: Final = frozenset({"prefix", "partitions", "owner"})
"""Parameters of engine and rules that follow from other settings."""


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class KafkaSettings(_Group):
    """How to reach Kafka. Files are PEM."""

    bootstrap_servers: str = "127.0.0.1:9092"
    """host:port, several divided by commas."""
    tls: bool = False
    """Encrypt, trusting the system's authorities; a CA or certificate file implies it."""
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: SecretStr | None = None
    check_hostname: bool = True
    sasl_mechanism: SaslMechanism = "SCRAM-SHA-512"
    username: str | None = None
    password: SecretStr | None = None

    def connection(self) -> KafkaConnection:
        """The value that clients take."""
        return KafkaConnection(
            bootstrap_servers=self.bootstrap_servers,
            tls=self.tls,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            key_password=_revealed(self.key_password),
            check_hostname=self.check_hostname,
            sasl_mechanism=self.sasl_mechanism,
            username=self.username,
            password=_revealed(self.password),
        )


class RedisSettings(_Group):
    """How to reach Redis. Files are PEM."""

    url: str = "redis://127.0.0.1:6379/0"
    """redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB or redis+cluster://HOST:PORT,HOST:PORT;
    with rediss in place of redis: TLS."""
    username: str | None = None
    password: SecretStr | None = None
    sentinel_username: str | None = None
    sentinel_password: SecretStr | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    check_hostname: bool = True
    connections: int = Field(default=16, ge=1, le=10_000)
    timeout_s: float = Field(default=5.0, gt=0)
    """Longest wait for a reply."""

    def config(self) -> RedisConfig:
        """The value that the store takes."""
        from adgovernor.stores.redis_client import RedisConfig, RedisTls

        given: dict[str, Any] = {
            "username": self.username,
            "password": _revealed(self.password),
            "sentinel_username": self.sentinel_username,
            "sentinel_password": _revealed(self.sentinel_password),
        }
        tls = None
        if self.url.startswith("rediss") or self.ca_file or self.cert_file:
            tls = RedisTls(
                ca_file=self.ca_file,
                cert_file=self.cert_file,
                key_file=self.key_file,
                check_hostname=self.check_hostname,
            )
        return RedisConfig.from_url(
            self.url,
            tls=tls,
            connections=self.connections,
            timeout_s=self.timeout_s,
            **{name: value for name, value in given.items() if value is not None},
        )


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


class Settings(BaseSettings):
    """Everything that can be set. See the module for where it comes from."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )
    toml_file: ClassVar[Path | None] = None

    prefix: str = Field(default="adgovernor", pattern=PREFIX)
    """The deployment's name: topics are PREFIX.ad-requests and so on, keys in Redis begin with it."""
    partitions: int = Field(default=8, ge=1, le=1024)
    """Of every topic, when they are made. Fixed for a deployment."""
    group: str | None = None
    """The workers' consumer group; left out: PREFIX.workers."""
    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    rules: dict[str, Any] = {}
    """Parameters of the rules, by name; see `core.rules.Rules`. The same on all workers."""
    engine: dict[str, Any] = {}
    """Limits and deadlines of a shard's engine, by name; see `runtime.settings.EngineSettings`."""
    clock: Literal["wall", "events"] = "wall"
    """events: time is the greatest event time read, for old logs."""
    session_timeout_ms: int = Field(default=6_000, ge=1_000, le=300_000)
    """How long a worker may be silent before its shards go to others."""
    start_wait_s: float = Field(default=60.0, ge=0, le=3_600)
    """How long `run` waits for a Kafka or a Redis that does not answer when it starts, and for topics to be created."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """auto: for people on a terminal, JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_host: str = "0.0.0.0"  # noqa: S104 - a scraper comes from another machine
    metrics_port: int = Field(default=9464, ge=0, le=65535)
    """Where /metrics, /healthz and /readyz are served by `run`; 0: a free port, which is logged."""

    @field_validator("rules", "engine")
    @classmethod
    def _no_deployment(cls, value: dict[str, Any]) -> dict[str, Any]:
        own = sorted(_BY_DEPLOYMENT.intersection(value))
        if own:
            raise ValueError(f"{', '.join(own)}: set beside this table, not in it")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file."""
        return init_settings, env_settings, _TomlFile(settings_cls)

    @property
    def worker_group(self) -> str:
        """The workers' consumer group."""
        return self.group or f"{self.prefix}.workers"

    def rules_for(self, partitions: int) -> Rules:
        """The rules of a deployment with so many partitions. Raises `BadSettings`."""
        return _made(Rules, "rules", {**self.rules, "partitions": partitions})

    def engine_for(self, partitions: int) -> EngineSettings:
        """The engine's settings; who owns a shard is for the worker to say. Raises `BadSettings`."""
        given = {"clock": self.clock, "gather_s": _GATHER_S, "beat_s": _BEAT_S, **self.engine}
        return _made(EngineSettings, "engine", {**given, "prefix": self.prefix, "partitions": partitions})


_GATHER_S: Final = 0.01
"""A worker's shards take turns on a few cores; ten milliseconds a block leave time for all of them."""
_BEAT_S: Final = 0.05
"""Where a block of a tenth of a core's load takes 20 to 40 ms, most of them waiting for its turn, shards that begin
together are done sooner (`deploy/adr/0011-a-worker-commits-together.md`)."""


class _TomlFile(PydanticBaseSettingsSource):
    """Values of the TOML file that `load` chose."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Not used: the file is taken as a whole."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        path = Settings.toml_file
        if path is None:
            return {}
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadSettings(f"settings file {path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadSettings(f"settings file {path} is no TOML: {error}") from error


def _made(kind: type[_T], table: str, values: Mapping[str, Any]) -> _T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        allowed = ", ".join(sorted(known - _BY_DEPLOYMENT))
        raise BadSettings(f"{table}: there is no {', '.join(unknown)}; known are {allowed}")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise BadSettings(_explained(error, table)) from error


def _explained(error: ValidationError, table: str = "") -> str:
    told = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        path = [str(part) for part in problem["loc"]]
        name = ".".join([table, *path] if table else path)
        variable = ENVIRONMENT + "__".join([table, *path] if table else path).upper()
        if problem["type"] == "extra_forbidden":
            told.append(f"there is no setting {name} (in the environment: {variable}); {_known(path)}")
        else:
            said = str(problem["msg"]).removeprefix("Value error, ")
            told.append(f"{name}: {said} (in the environment: {variable})")
    return "; ".join(told)


def _known(path: list[str]) -> str:
    """Which settings stand where an unknown one does."""
    models: dict[str, type[BaseModel]] = {"kafka": KafkaSettings, "redis": RedisSettings}
    names = models[path[0]].model_fields if len(path) > 1 and path[0] in models else Settings.model_fields
    near = alike(path[-1], names)
    return f"is {near} meant?" if near else f"known are {', '.join(sorted(names))}"


def load(config: Path | None = None, **given: Any) -> Settings:
    """The settings. ``config``: the TOML file; ``given``: values that win, nested by group; None is not given.

    Raises:
        BadSettings: says which setting is wrong, and where it can be mended.
    """
    named = config or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    Settings.toml_file = named or (Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None)
    wanted: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            value = {key: inner for key, inner in value.items() if inner is not None}
        if value not in (None, {}):
            wanted[name] = value
    try:
        settings = Settings(**wanted)
    except ValidationError as error:
        raise BadSettings(_explained(error)) from error
    except SettingsError as error:
        # Of a group whose variable is no JSON object.
        raise BadSettings(
            f"{error}: give its members one by one, such as {ENVIRONMENT}KAFKA__BOOTSTRAP_SERVERS, or a JSON object"
        ) from error
    finally:
        Settings.toml_file = None
    _refuse_unknown_variables()
    settings.rules_for(settings.partitions)
    settings.engine_for(settings.partitions)
    return settings


def _refuse_unknown_variables() -> None:
    # A misspelt variable is otherwise ignored without a word. Groups are looked into by their own models.
    known = {ENVIRONMENT + name.upper() for name in Settings.model_fields}
    ours = {CONFIG_VARIABLE, *(name for name in os.environ if name.startswith(ENVIRONMENT + "TEST_"))}
    for name in sorted(os.environ):
        if name.startswith(ENVIRONMENT) and name not in ours and name.split("__")[0] not in known:
            near = alike(name, known)
            hint = f"is {near} meant?" if near else f"known are {', '.join(sorted(known))}"
            raise BadSettings(f"environment variable {name} names no setting; {hint}")
