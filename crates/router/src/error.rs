//! The one way in which a filter can fail.

/// Why a filter was not taken. Nothing changed in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The filter has more levels than [`Limits::levels_max`](crate::Limits::levels_max).
    #[error("the topic filter has too many levels")]
    TooManyLevels,
    /// The table is full: [`Limits::filters_max`](crate::Limits::filters_max).
    #[error("the table of topic filters is full")]
    TooManyFilters,
    /// The filter puts its `+` where no other filter has them, and there are [`Limits::shapes_max`](crate::Limits::shapes_max)
    /// such placements already. Each of them can cost every PUBLISH a step per level.
    #[error("too many different placements of wildcards")]
    TooManyShapes,
    /// All [`NODES_MAX`](crate::NODES_MAX) places for nodes are taken.
    #[error("the route table knows too many nodes")]
    TooManyNodes,
}
