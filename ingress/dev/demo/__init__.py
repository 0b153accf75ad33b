"""`ingress demo`: a scene played without a person, and checked against what the simulators saw.

The service runs as a process of its own on throw-away servers; provider and CRM are simulators in this one.

    scene.py            who is started, in which order, and what an end of any kind leaves
    stage.py            what the scene is played on: servers, service, simulators, an organization set up over HTTP
    webhooks.py         people write, with duplicates, and once more around a SIGKILL
    sends.py            messages go out while the active provider refuses connections for a while
    other_providers.py  messages in and out, for an organization at each of the other two
    switches.py         the active provider is switched back and forth, under load
    checks.py           what was seen against what is true: pure, and the only judge
    screen.py           what a person watches
"""
