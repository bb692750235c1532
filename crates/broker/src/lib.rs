//! Listeners, connection tasks and the publish path of one node.
