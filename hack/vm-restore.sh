# shellcheck shell=bash
# What hack/vm runs in its machine: a container is checkpointed, removed, and restored. Every step is shown; the counting goes on where it was.
modprobe -a overlay veth bridge nf_tables
/job/davit-registry /job/images --listen 127.0.0.1:5000 &
# Debian's crun is built without CRIU.
/job/davit serve --root /d/root --state /run/davit --default-handler runc --listen unix:///run/davit/davit.sock >/tmp/davit.log 2>&1 &
until /job/davit info >/dev/null 2>&1; do sleep 1; done
PATH=/job:$PATH
image=127.0.0.1:5000/davit-test/busybox:latest
show() { echo "# $*"; "$@"; echo "# = $?"; }
davit pull "$image" >/dev/null
davit run -d --name web "$image" sh -c 'mkdir /data; echo kept >/data/f; rm /etc/group; i=0
    while [ ! -e /stop ]; do i=$((i+1)); echo tick $i; sleep 1; done; echo stopping at $i; exit 7'
sleep 5
show davit checkpoint create --name one web
show davit logs web
davit rm -f web
show davit checkpoint restore one
sleep 3
show davit ps -a
show davit logs web
show davit exec web sh -c 'cat /data/f; ls /etc/group; ip address show eth0'
davit exec web touch /stop
show davit wait web
show davit checkpoint restore --name another one
sleep 2
show davit logs another
davit rm -f web another
davit run -d -t -i --name terminal "$image" sh
show davit checkpoint create --name two terminal
davit rm -f terminal
show davit checkpoint restore two
show davit ps -a
davit rm -f terminal
show ls /d/root/containers /run/davit/pods
grep -v ' INFO ' /tmp/davit.log
