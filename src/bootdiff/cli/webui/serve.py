"""Serves the page: on this machine alone by default, without telemetry, and without a word to any other machine."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path

from bootdiff.cli.console import Console
from bootdiff.cli.webui.site import Site
from bootdiff.errors import BootdiffError
from bootdiff.recipe.trust import trusted

__all__ = ["PORT", "choose_port", "is_this_machine", "need_gradio", "prepare", "serve"]

PORT = 7860
_TRIED = 40


def need_gradio() -> None:
    """Raises BootdiffError where gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise BootdiffError("ui: the package gradio is not installed; run pip install 'bootdiff[ui]'")


def is_this_machine(host: str) -> bool:
    """Whether only this machine reaches an address.

    >>> is_this_machine("127.0.0.1"), is_this_machine("localhost"), is_this_machine("0.0.0.0")
    (True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def choose_port(host: str, port: int | None) -> int:
    """A free port: this one, or, of None, the first one from `PORT` on.

    Raises:
        BootdiffError: it is in use, or the address is none of this machine.
    """
    for candidate in [port] if port is not None else range(PORT, PORT + _TRIED):
        try:
            family = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, candidate))
            return candidate
        except PermissionError:
            raise BootdiffError(f"--port {candidate}: not allowed here; give one above 1023") from None
        except socket.gaierror:
            raise BootdiffError(f"--host {host}: no such address; leave it out, or give one of this machine") from None
        except OSError as error:
            if error.errno in (99, 49):  # EADDRNOTAVAIL on Linux and macOS
                raise BootdiffError(f"--host {host}: is no address of this machine; leave it out") from None
            if port is not None:
                raise BootdiffError(
                    f"--port {port}: is in use (another page of bootdiff, perhaps); give a different one, or leave it "
                    "out and the next free one is taken"
                ) from None
    raise BootdiffError(f"--port: none from {PORT} to {PORT + _TRIED - 1} is free; give one that is")


def prepare(folder: Path) -> None:
    """Settings that gradio reads when it is imported. folder: for uploads and pictures that it hands out."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_SHARE"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"


def serve(runs: Path, data: Path, host: str, port: int | None, device: str | None, screen: Console) -> None:
    """Serve until Ctrl-C.

    Raises:
        BootdiffError: no such address, no free port.
    """
    chosen = choose_port(host, port)
    site = Site(runs, data, trusted(), device)
    folder = Path(tempfile.mkdtemp(prefix="bootdiff-ui-"))
    prepare(folder)
    from bootdiff.cli.webui.layout import Page

    page = Page(site, folder)
    try:
        try:
            page.launch(host, chosen)
        except OSError as error:  # taken in the meantime
            raise BootdiffError(f"--port {chosen}: cannot be served at ({error}); give a different one") from None
        if port is None and chosen != PORT:
            screen.print(f"port {PORT} is in use; this page has {chosen}")
        if not is_this_machine(host):
            screen.print(
                f"Anyone who reaches {host}, port {chosen}, can use this page without a password: look at the runs in "
                f"{runs}, draw, read what lies in {data.resolve()}, and start trainings. Leave out --host to keep it "
                "to this machine.", "yellow",
            )  # fmt: skip
        here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # every address of this machine
        shown = here.get(host, f"[{host}]" if ":" in host else host)
        screen.print(f"Open http://{shown}:{chosen} in a browser. Ctrl-C ends the page.", "bold")
        threading.Event().wait()
    except KeyboardInterrupt:
        screen.print("ending")
    finally:
        left = page.close()
        for command in left:
            screen.print(f"interrupted; the same command goes on: {command}", "yellow")
        shutil.rmtree(folder, ignore_errors=True)
