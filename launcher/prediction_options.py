"""The options of `tplaunch plan` that ask how fast hosts would be."""

from __future__ import annotations

import argparse

from tplaunch.launcher.commands.predict import HERE, PredictionConfig
from tplaunch.launcher.predicting.described import EXAMPLE, parse_host
from tplaunch.launcher.predicting.links import parse_link


def add_prediction_options(parser: argparse._ArgumentGroup) -> None:
    """Adds them to a group."""
    parser.add_argument("--speed", action="store_true", help="tokens per second, of one host too")
    parser.add_argument(
        "--link",
        metavar="LATENCY,RATE",
        help="between any two hosts: the time that a message is on its way, half of what ping says, and the"
        " rate, such as 1000us,1Gbit; with it nobody joins, and there are two hosts unless --hosts says more"
        " (default: --hosts waits for others to join, and links are measured)",
    )
    parser.add_argument(
        "--host-devices",
        action="append",
        default=[],
        metavar="DEVICES",
        help=f"what a host has, such as 2x{EXAMPLE}: the rate at which it reads weights, and if known its"
        f" memory, its speed in prefill, the time of a submission; {HERE} for this machine's; once for all"
        " hosts, or once for each (default: every host is like this one)",
    )
    parser.add_argument(
        "--prompt-tokens", type=int, default=512, metavar="N", help="of the prefill (default: %(default)s)"
    )
    parser.add_argument(
        "--anew", action="store_true", help="measure again what is known of these devices from before"
    )


def prediction_config(options: argparse.Namespace) -> PredictionConfig | None:
    """Returns what is asked for; None where only the plan is. Raises UsageError."""
    if not (options.speed or options.link or options.host_devices or options.hosts > 1):
        return None
    described = tuple(None if text == HERE else parse_host(text) for text in options.host_devices)
    return PredictionConfig(
        num_hosts=options.hosts if options.hosts > 1 else None,
        link=None if options.link is None else parse_link(options.link),
        described=described,
        prompt_tokens=options.prompt_tokens,
        anew=options.anew,
    )
