//! Who gets a message: a trie of topic filters and shared-subscription groups.
