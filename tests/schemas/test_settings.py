from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from headwater_schemas.errors import SettingError
from headwater_schemas.settings import SETTINGS, Environment, KafkaSettings, RegistrySettings


def test_every_setting_is_declared_once_with_a_meaning() -> None:
    names = [setting.name for setting in SETTINGS]

    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"HEADWATER_[A-Z0-9_]+", name) for name in names)
    assert all(setting.help.endswith(".") for setting in SETTINGS)


def test_passwords_and_tokens_are_marked_secret() -> None:
    for setting in SETTINGS:
        if re.search(r"PASSWORD|SECRET|TOKEN$", setting.name):
            assert setting.secret, setting.name


def test_an_unknown_setting_names_the_nearest_one() -> None:
    with pytest.raises(SettingError, match="did you mean HEADWATER_KAFKA_BOOTSTRAP"):
        Environment({"HEADWATER_KAFKA_BOOTSTRP": "x"})


def test_other_variables_are_not_ours() -> None:
    assert Environment({"PATH": "/bin", "HEADWATERS": "x"}).text("HEADWATER_KAFKA_BOOTSTRAP") == "127.0.0.1:9092"


def test_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA_BOOTSTRAP", "broker:1")

    assert Environment().text("HEADWATER_KAFKA_BOOTSTRAP") == "broker:1"


def test_an_empty_value_counts_as_not_set() -> None:
    assert Environment({"HEADWATER_REGISTRY_TIMEOUT": ""}).duration("HEADWATER_REGISTRY_TIMEOUT") == 5.0


def test_a_needed_setting_that_is_not_set_says_what_it_is() -> None:
    with pytest.raises(SettingError, match="HEADWATER_API_KEYS is not set: Path of the API key file"):
        Environment({}).text("HEADWATER_API_KEYS")


@pytest.mark.parametrize("value", ["-1", "1.5", "many", "0", "²"])
def test_a_count_must_be_a_whole_number(value: str) -> None:
    env = Environment({"HEADWATER_KAFKA_MAX_RECORD_BYTES": value})

    with pytest.raises(SettingError, match="whole number of at least 1"):
        env.integer("HEADWATER_KAFKA_MAX_RECORD_BYTES", minimum=1)


def test_a_flag_is_true_or_false() -> None:
    name = "HEADWATER_REGISTRY_AUTO_REGISTER"

    assert Environment({}).flag(name)
    assert not Environment({name: "False"}).flag(name)
    with pytest.raises(SettingError, match="must be true or false"):
        Environment({name: "1"}).flag(name)


def test_a_duration_names_its_setting_when_it_is_wrong() -> None:
    with pytest.raises(SettingError, match="HEADWATER_REGISTRY_TIMEOUT: 'soon' is not a duration"):
        Environment({"HEADWATER_REGISTRY_TIMEOUT": "soon"}).duration("HEADWATER_REGISTRY_TIMEOUT")


def test_paths_are_separated_like_path() -> None:
    env = Environment({"HEADWATER_CONTRACTS": os.pathsep.join(["/a", "", "/b"])})

    assert env.paths("HEADWATER_CONTRACTS") == (Path("/a"), Path("/b"))
    assert Environment({}).paths("HEADWATER_CONTRACTS") == ()


class TestKafka:
    def test_plain_text_needs_the_address_only(self) -> None:
        assert KafkaSettings.from_env(Environment({})).client_config() == {
            "bootstrap.servers": "127.0.0.1:9092",
            "security.protocol": "PLAINTEXT",
        }

    def test_mutual_tls(self) -> None:
        settings = KafkaSettings("b:1", "SSL", ca="ca", cert="cert", key="key", key_password="pw")

        assert settings.client_config() == {
            "bootstrap.servers": "b:1",
            "security.protocol": "SSL",
            "ssl.ca.location": "ca",
            "ssl.certificate.location": "cert",
            "ssl.key.location": "key",
            "ssl.key.password": "pw",
        }

    def test_scram(self) -> None:
        settings = KafkaSettings("b:1", "SASL_SSL", mechanism="SCRAM-SHA-512", username="jane", password="pw")

        config = settings.client_config()

        assert (config["sasl.mechanism"], config["sasl.username"], config["sasl.password"]) == (
            "SCRAM-SHA-512",
            "jane",
            "pw",
        )

    def test_oauth(self) -> None:
        settings = KafkaSettings(
            "b:1", "SASL_SSL", mechanism="OAUTHBEARER", username="id", password="pw", token_url="https://t"
        )

        config = settings.client_config()

        assert config["sasl.oauthbearer.method"] == "oidc"
        assert config["sasl.oauthbearer.token.endpoint.url"] == "https://t"
        assert "sasl.password" not in config

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"bootstrap": " "}, "HEADWATER_KAFKA_BOOTSTRAP is empty"),
            ({"security_protocol": "TLS"}, "HEADWATER_KAFKA_SECURITY_PROTOCOL='TLS': pass PLAINTEXT, SSL"),
            ({"security_protocol": "SASL_SSL"}, "HEADWATER_KAFKA_SECURITY_MECHANISM=None: pass one of PLAIN"),
            ({"security_protocol": "SASL_SSL", "mechanism": "PLAIN"}, "SASL needs"),
            (
                {"security_protocol": "SASL_SSL", "mechanism": "OAUTHBEARER", "username": "i", "password": "p"},
                "OAUTHBEARER needs HEADWATER_KAFKA_SECURITY_TOKEN_URL",
            ),
        ],
    )
    def test_a_wrong_setting_says_what_to_pass(self, changes: dict[str, str], message: str) -> None:
        with pytest.raises(SettingError, match=re.escape(message)):
            KafkaSettings(**({"bootstrap": "b:1"} | changes))  # type: ignore[arg-type]  # all of them text

    def test_passwords_are_not_printed(self) -> None:
        settings = KafkaSettings(
            "b:1", "SASL_SSL", mechanism="PLAIN", username="jane", password="s3", key_password="s3"
        )

        assert "s3" not in repr(settings)


class TestRegistry:
    def test_the_settings_are_read(self) -> None:
        env = Environment(
            {
                "HEADWATER_REGISTRY_URL": "https://registry",
                "HEADWATER_REGISTRY_USERNAME": "jane",
                "HEADWATER_REGISTRY_PASSWORD": "pw",
                "HEADWATER_REGISTRY_TIMEOUT": "250ms",
                "HEADWATER_REGISTRY_CA": "ca",
            }
        )

        assert RegistrySettings.from_env(env) == RegistrySettings("https://registry", "jane", "pw", 0.25, ca="ca")

    @pytest.mark.parametrize("url", ["registry:8081", "ftp://registry", ""])
    def test_the_address_must_be_http(self, url: str) -> None:
        with pytest.raises(SettingError, match="must start with http"):
            RegistrySettings(url)

    def test_a_time_limit_of_nothing_is_refused(self) -> None:
        with pytest.raises(SettingError, match="HEADWATER_REGISTRY_TIMEOUT"):
            RegistrySettings("http://registry", timeout=0.0)
