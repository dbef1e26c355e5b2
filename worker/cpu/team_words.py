"""Where in a team's memory each word lies, in bytes. What threads write stands apart, in lines of its own."""

from tplaunch.worker.cpu.memory import LINE

ORDERS, ARRIVED, MEETINGS = 0, 2 * LINE, 3 * LINE  # counts up by each order; threads that wait; counts up
SLEEPERS = LINE  # behind ORDERS and MEETINGS: the threads that sleep until they change
FAILED, IS_CLOSING = 5 * LINE, 5 * LINE + 4
# What only the first thread writes, 64 bits each: the kernels of an order; how often a thread looks before it
# sleeps, how often it sleeps at most, and how long each time; and how it does that.
CALLS, COUNT, SPINS, ROUNDS = (6 * LINE + 8 * place for place in range(4))
SLICE, SYSTEM_CALL, FUTEX = (6 * LINE + 8 * place for place in (4, 6, 7))  # a slice has seconds and rest
SIZE = 7 * LINE
