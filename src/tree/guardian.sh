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

cookies=
for number in $list; do
    eval "group=\$group_$number cookie=\$cookie_$number cgroup=\$cgroup_$number"
    [ "$group" = - ] || kill -KILL "-$group" 2>/dev/null
    [ "$cgroup" = - ] || echo 1 2>/dev/null >"$cgroup/cgroup.kill"
    [ "$cookie" = - ] || cookies="$cookies$cookie
"
done

# Those who have left their group. Some may be forking; and in the middle of an exec nothing is to be seen of a
# process. So it is over when nobody was found several times in a row.
tries=0 quiet=0
while [ -n "$cookies" ] && [ "$tries" -lt 1000 ] && [ "$quiet" -lt 5 ]; do
    tries=$((tries + 1)) quiet=$((quiet + 1))
    for file in $(printf %s "$cookies" | grep -lFf - /proc/[0-9]*/environ 2>/dev/null); do
        file=${file#/proc/}
        kill -KILL "${file%/environ}" 2>/dev/null
        quiet=0
    done
done

for number in $list; do
    eval "cgroup=\$cgroup_$number"
    [ "$cgroup" = - ] && continue
    tries=0
    while [ -d "$cgroup" ] && [ "$tries" -lt 30 ]; do
        find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null
        [ -d "$cgroup" ] && sleep 1
        tries=$((tries + 1))
    done
done
