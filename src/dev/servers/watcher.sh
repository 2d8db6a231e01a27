# Runs one server and outlives neither it nor the process that started us: our standard input is a pipe whose other end
# that process holds, and it reads EOF when the process is gone, however it went.
# Arguments: the signal for a graceful stop, tenths of a second until SIGKILL, two folders to remove afterwards (each may
# be ""), and the server's command. Prints the server's process id; ends with the server, with its exit code.
stop_signal=$1 patience=$2 remove=$3 remove_too=$4
shift 4
# The kernel sends it to a group that loses its parent while a member of it is paused. We are needed most just then.
trap '' HUP
exec 3<&0 </dev/null
"$@" 3<&- >&2 &
server=$!
echo "$server"
exec >&-

(
    read -r _ <&3
    trap '' TERM
    # Children of their own (PostgreSQL's, each in a session of its own), which would outlive a killed server.
    children=$(cat "/proc/$server/task/$server/children" 2>/dev/null || pgrep -P "$server")
    # A paused process takes no signal but these two.
    kill -s CONT $server $children
    kill -s "$stop_signal" "$server"
    while [ "$patience" -gt 0 ] && kill -0 "$server"; do
        patience=$((patience - 1))
        sleep 0.1
    done
    if kill -0 "$server"; then
        kill -s KILL $server $children
    fi
    cd /
    rm -rf -- ${remove:+"$remove"} ${remove_too:+"$remove_too"}
) 2>/dev/null &
watch=$!

wait "$server"
code=$?
# Only while it still waits for EOF; once it stops the server it has to finish.
kill "$watch" 2>/dev/null
wait "$watch" 2>/dev/null
exit "$code"
