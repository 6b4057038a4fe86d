.PHONY: verify fix bench

# What a change must pass; never writes to the source.
verify:
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	cargo test
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

fix:
	cargo fmt --all
	cargo clippy --all-targets --fix --allow-dirty

bench:
	cargo bench
