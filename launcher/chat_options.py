"""The options of a chat."""

from __future__ import annotations

import argparse


def add_chat_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-sys", "--system-prompt", metavar="TEXT", help="what the model is told before all messages"
    )
    group.add_argument(
        "--no-chat",
        dest="chat",
        action="store_false",
        help="continue texts, as of a model without a template",
    )
    group.add_argument(
        "--chat-template", metavar="FILE", help="a template in jinja2's language, in place of the model's"
    )
    group.add_argument(
        "--drop-oldest",
        action="store_true",
        help="let a chat's oldest turns go where the context is full (default: say that it is)",
    )
