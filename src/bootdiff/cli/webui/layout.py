"""The page: what stands above its parts, and the parts (`tab_*`) below it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from bootdiff import __version__
from bootdiff.cli.webui import markup, tab_draw, tab_new, tab_restore, tab_runs
from bootdiff.cli.webui.models import Models
from bootdiff.cli.webui.parts import EVENT, Shared, run_choices, session
from bootdiff.cli.webui.processes import Commands
from bootdiff.cli.webui.site import Site
from bootdiff.cli.webui.work import Desk

__all__ = ["Page"]

_UPLOAD = "64mb"  # of a file that a browser sends, at most


def _theme() -> Any:
    """The system's fonts: none is fetched from anywhere."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
    theme = gr.themes.Base(primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=fonts, font_mono=mono)
    return theme.set(
        button_primary_background_fill="#1f5fa8", button_primary_background_fill_hover="#174a84",
        button_primary_background_fill_dark="#1f5fa8", button_primary_background_fill_hover_dark="#2a73c4",
        button_primary_text_color="white", button_primary_text_color_dark="white",
        body_text_color_subdued="#57606a", body_text_color_subdued_dark="#a5afba",
        input_placeholder_color="#57606a", input_placeholder_color_dark="#a5afba",
        color_accent="#1f5fa8", slider_color="#1f5fa8", slider_color_dark="#7db7f5",
        block_title_text_color="#1f2328", block_title_text_color_dark="#e3e7ec",
        block_label_text_color="#1f2328", block_label_text_color_dark="#e3e7ec",
        block_info_text_color="#57606a", block_info_text_color_dark="#a5afba",
    )  # fmt: skip


class Page:
    """The page of a site.

    Args:
        site: its folders.
        folder: for files that it hands out.
    """

    def __init__(self, site: Site, folder: Path) -> None:
        self.shared = Shared(site, Desk(), Models(site), Commands(site), folder)
        self.blocks = self._made()

    def launch(self, host: str, port: int) -> None:
        """Serve in the background."""
        self.blocks.launch(
            server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, inbrowser=False,
            show_error=True, footer_links=[], run_history=False, max_file_size=_UPLOAD, enable_monitoring=False,
            ssr_mode=False, pwa=False, mcp_server=False, theme=_theme(), css=markup.CSS, max_threads=40,
            state_session_capacity=100,
        )  # fmt: skip

    def close(self) -> list[str]:
        """End it, and what it started; the commands that go on from there."""
        left = self.shared.commands.end()
        self.blocks.close(verbose=False)
        return left

    def _made(self) -> gr.Blocks:
        shared = self.shared
        with gr.Blocks(title="bootdiff", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            gr.HTML(markup.block(markup.heading("bootdiff", f"version {__version__}")))
            with gr.Row():
                run = gr.Dropdown(label="Run", choices=[], scale=3, info="newest first")
                search = gr.Textbox(label="Search runs", placeholder="part of a name", scale=2, max_lines=1)
                refresh = gr.Button("Refresh", scale=0, min_width=110, size="sm")
            with gr.Tabs():
                with gr.Tab("Runs"):
                    runs = tab_runs.build(shared, run)
                with gr.Tab("Draw"):
                    tab_draw.build(shared, run)
                with gr.Tab("Restore"):
                    tab_restore.build(shared, run)
                with gr.Tab("New"):
                    opening = tab_new.build(shared)

            def listed(words: str, current: str | None) -> tuple[Any, str]:
                listing = shared.site.listing(words or "")
                return run_choices(listing, current), tab_runs.table(listing)

            # Not `once`: what was typed last counts.
            for event in (search.change, refresh.click, blocks.load):
                event(
                    listed, [search, run], [run, runs], show_progress="hidden", trigger_mode="always_last",
                    api_visibility="private",
                )  # fmt: skip

            blocks.load(*opening, **EVENT)

            def gone(request: gr.Request) -> None:
                shared.desk.stop(session(request))

            blocks.unload(gone)
        return blocks.queue(default_concurrency_limit=8, api_open=False)
