"""What one of the objects may weigh that Flower cuts a message into.

By itself, so that the SuperLink's process, which computes nothing, does without torch.
"""

from gobelin.protocols.messages import MAX_BYTES

CHUNK = 5 * 2**20  # bytes of an array that Flower puts into one object
HEAD = 2**10  # bytes of an object beside what it carries: its type, its children's ids, a name
MOST_OF_ONE = CHUNK + MAX_BYTES  # bytes of any one object
