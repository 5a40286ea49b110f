#!/bin/bash
# The guest's job, from /lab/start: in a machine the first process, on a host the first one in the
# private root. What follows the last line is appended by the host.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LC_ALL=C.UTF-8 TERM=${TERM:-linux}
hostname lab
