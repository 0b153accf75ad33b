"""`ingress demo`: a scene played without a person, and checked against what the simulators saw.

The service runs as a process of its own on throw-away servers; provider and CRM are simulators in this one.

    stage.py      what the scene is played on: servers, service, simulators, an organization set up over HTTP
    webhooks.py   people write, with duplicates, and once more around a SIGKILL
    sends.py      messages go out while the active provider refuses connections for a while
    checks.py     what was seen against what is true: pure, and the only judge
    screen.py     what a person watches
"""

import sys


def play(webhooks: int, sends: int) -> int:
    """Play the scene with so many inbound messages and sends; the exit status, 0 where every check holds.

    Raises `ServersError` where the embedded servers cannot be had, and passes on Ctrl-C with everything cleaned up.
    """
    try:
        import rich  # noqa: F401  (only the demo needs it)
    except ModuleNotFoundError:
        sys.stderr.write('ingress: rich is not installed: pip install "whatsapp-ingress[demo]"\n')
        return 1
    from .scene import perform

    return perform(webhooks, sends)
