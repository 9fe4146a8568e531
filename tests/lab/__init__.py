"""One or two machines with the kernel's own lock managers, as ordinary processes.

The machines are User-Mode Linux: Debian's kernel as a program, so nothing needs virtualization.
``python -m tests.lab`` is the command for people, the fixtures `node1` and `node2` are for tests.

* `build`: what the machines are made of, fetched once into a cache.
* `machines`: boots them, and is the cable between them.
* `supervisor`: the process that does so, and takes orders over a socket.
* `node`: what gives the orders: run a command there, kill it, boot it again.
* `guest/`: what runs inside.
"""
