//! The rules of the tree itself: who may use whom, what the source must not contain, which papers go with it.
//!
//! What a compiler lint can say is in `[workspace.lints]` and `clippy.toml`; here is the rest.

mod tidy {
    mod arrows;
    mod conformance;
    mod papers;
    mod source;
    mod tree;
}
