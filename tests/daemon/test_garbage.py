"""No collection of garbage takes longer the more flows there are."""

import subprocess
import sys

# In a process of its own: what is frozen here would be spared in all other tests.
SPARING = """
import gc, weakref
from kracauer.daemon.garbage import spare_the_old

class Thing:
    pass

spare_the_old()
spare_the_old()
assert len(gc.callbacks) == 1
looked_at = []

def look(phase, info):
    if phase == "start":
        looked_at.append((info["generation"], len(gc.get_objects())))

gc.callbacks.append(look)
living = []
for number in range(200_000):
    living.append([number])
    circle = Thing()
    circle.itself = circle
assert max(count for _, count in looked_at) < 20_000, max(looked_at, key=lambda each: each[1])
assert {generation for generation, _ in looked_at} >= {0, 1}
last = weakref.ref(circle)
del circle
gc.collect()
assert last() is None, "a circle that dies young is not found"
thing = Thing()
gone = weakref.ref(thing)
gc.collect(1)
assert not gc.is_tracked(thing) or thing not in gc.get_objects()
del thing
assert gone() is None, "what is spared is not freed by its count"
"""


def test_collections_look_at_young_objects_alone_and_free_the_circles_among_them() -> None:
    result = subprocess.run([sys.executable, "-c", SPARING], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
