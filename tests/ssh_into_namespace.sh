#!/bin/sh
# In the place of `ssh OPTIONS -- HOST COMMAND`: the command runs in the network namespace of that name.
while [ "$1" != -- ]; do shift; done
exec ip netns exec "$2" sh -c "$3"
