//! A list that only grows, in pages: a list of ten million neither stops the world to move nor holds twice its size.

use std::ops::{Index, IndexMut};

/// Items per page.
const PAGE: usize = 4096;

#[derive(Clone, Debug)]
pub(crate) struct Pages<T> {
    pages: Vec<Vec<T>>,
    len: u32,
}

impl<T> Pages<T> {
    pub(crate) const fn new() -> Self {
        Self {
            pages: Vec::new(),
            len: 0,
        }
    }

    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    /// Gives the item's place.
    ///
    /// # Panics
    /// When 2^32 - 1 items are in it: the tables above have lower limits.
    pub(crate) fn push(&mut self, item: T) -> u32 {
        let at = self.len;
        assert!(at < u32::MAX, "the limits keep tables smaller than this");
        let (page, _) = split(at);
        if page == self.pages.len() {
            // The first page grows as needed: most tables are small.
            let size = if page == 0 { 0 } else { PAGE };
            self.pages.push(Vec::with_capacity(size));
        }
        self.pages[page].push(item);
        self.len += 1;
        at
    }

    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        let (page, place) = split(at);
        self.pages.get(page)?.get(place)
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        let (page, place) = split(at);
        self.pages.get_mut(page)?.get_mut(place)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten()
    }

    /// Memory of the list itself, not of what its items own.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.iter().map(Vec::capacity).sum::<usize>() * size_of::<T>()
    }
}

impl<T> Index<u32> for Pages<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        let (page, place) = split(at);
        &self.pages[page][place]
    }
}

impl<T> IndexMut<u32> for Pages<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        let (page, place) = split(at);
        &mut self.pages[page][place]
    }
}

const fn split(at: u32) -> (usize, usize) {
    (at as usize / PAGE, at as usize % PAGE)
}
