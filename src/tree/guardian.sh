# The guardian: reads what it is to kill, line by line, and kills it at the end of its input, which comes when
# the process at the other end dies.
#
#   NUMBER GROUP COOKIE CGROUP   to be killed from now on; - is none
#   NUMBER                       is done
unset SCRIPT
trap '' HUP INT QUIT TERM TSTP TTIN TTOU PIPE USR1 USR2
list=' '
while read -r number group cookie cgroup; do
    if [ -z "$group" ]; then
        list="${list%%" $number "*} ${list#*" $number "}"
        unset "group_$number" "cookie_$number" "cgroup_$number"
        continue
    fi
    case $list in
    *" $number "*) ;;
    *) list="$list$number " ;;
    esac
    eval "group_$number=\$group cookie_$number=\$cookie cgroup_$number=\$cgroup"
done

# The kernel passes over whose first thread has ended.
kill_cgroup() {
    echo 1 2>/dev/null >"$cgroup/cgroup.kill"
    find "$cgroup" -name cgroup.procs -exec cat {} \; 2>/dev/null | while read -r id; do
        # 0 is one from outside this PID namespace, and to kill that would mean our own group.
        [ "$id" -gt 0 ] && kill -KILL "$id" 2>/dev/null
    done
}

cookies=
for number in $list; do
    eval "group=\$group_$number cookie=\$cookie_$number cgroup=\$cgroup_$number"
    [ "$group" = - ] || kill -KILL "-$group" 2>/dev/null
    [ "$cgroup" = - ] || kill_cgroup
    [ "$cookie" = - ] || cookies="$cookies$cookie
"
done

# Those who have left their group. Some may be forking; and in the middle of an exec nothing is to be seen of a
# process. So it is over when nobody was found several times in a row.
tries=0 quiet=0
while [ -n "$cookies" ] && [ "$tries" -lt 1000 ] && [ "$quiet" -lt 5 ]; do
    tries=$((tries + 1)) quiet=$((quiet + 1))
    # By the threads as well: the first of them may have ended, and then tells nothing.
    for file in $(
        printf %s "$cookies" | grep -lFf - /proc/[0-9]*/environ 2>/dev/null
        printf %s "$cookies" | grep -lFf - /proc/[0-9]*/task/[0-9]*/environ 2>/dev/null
    ); do
        file=${file#/proc/}
        kill -KILL "${file%%/*}" 2>/dev/null
        quiet=0
    done
done

for number in $list; do
    eval "cgroup=\$cgroup_$number"
    [ "$cgroup" = - ] && continue
    tries=0
    while [ -d "$cgroup" ] && [ "$tries" -lt 30 ]; do
        kill_cgroup
        find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null
        [ -d "$cgroup" ] && sleep 1
        tries=$((tries + 1))
    done
done
