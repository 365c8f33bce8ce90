# Everyday commands. `just` alone lists them; everything also works as the plain cargo command you see here.

_default:
    @just --list --unsorted

# Compile everything, no code generation
check:
    cargo check --workspace --all-targets

# The README's test command; `just test watch` runs the tests with "watch" in their name
test *filter:
    cargo test --workspace -- {{ filter }}

# Format the code
fmt:
    cargo fmt --all

# Lints, as strict as .ci/run
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Licences, bans and sources of the dependency tree
deny:
    cargo deny check bans licenses sources

# Known vulnerabilities; fetches the advisory database from github.com
advisories:
    cargo deny check advisories

# Two embedded clusters behind one address; `just demo -- kubectl --context east get pods -A`
demo *args:
    cargo run --release -- demo {{ args }}

# The gateway itself, e.g. `just serve --help`
serve *args:
    cargo run --release -- serve {{ args }}

# Clusterway, HAProxy, nginx and kubectl proxy in turns on one core; `just bench --quick` for a first look
bench *args:
    cargo run --release -p side-by-side -- {{ args }}

# The API documentation, with broken links as errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Everything that must pass before a change is good
ci:
    .ci/run
