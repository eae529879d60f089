# What the shell scripts of the benches share. They read it in the repository's root, with `peers` and `python` set.

peers_have() { # what they import, then the packages that bring it: a Python environment, made where it lacks any of them
    imports=$1
    shift
    if ! "$python" -c "import $imports" 2>/dev/null; then
        echo "installing the peers into $peers" >&2
        python3 -m venv "$peers"
        "$peers/bin/pip" install --quiet "$@"
    fi
}
built() { # a kind (`bench` or `bin`) and its name, then options of cargo: builds it and says where it is
    target="--$1 $2" name=$2
    shift 2
    cargo build --quiet --release "$@" $target
    cargo build --quiet --release "$@" $target --message-format json |
        sed -n 's/.*"executable":"\([^"]*\/'"$name"'\(-[^"\/]*\)\{0,1\}\)".*/\1/p'
}
