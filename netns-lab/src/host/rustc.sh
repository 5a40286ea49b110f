#!/bin/sh
# Runs the compiler ("$@") for cargo, which hashes the places of sources into each crate's
# `-C metadata`, from where it gets into symbols. A package's name and version tell as much.
for argument; do
    shift
    case $argument in
        metadata=*) argument=metadata=$CARGO_PKG_NAME-$CARGO_PKG_VERSION ;;
    esac
    set -- "$@" "$argument"
done
exec "$@"
