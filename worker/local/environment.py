"""The environment of a program that is to have these settings and no others."""

import os
from collections.abc import Mapping

from worker.container_settings import CONTAINER_SETTINGS
from worker.settings import setting_names


def environment_with(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without its settings, and with these."""
    foreign = {*setting_names(), *CONTAINER_SETTINGS}
    return {name: value for name, value in os.environ.items() if name not in foreign} | dict(settings)
