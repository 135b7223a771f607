//! State that only who is busy has: of thousands of clients nearly all are idle, and pay a pointer for it.

use std::ops::{Deref, DerefMut};

/// Reads as idle until it is written to; written to, it is there until it is idle again and somebody says so.
#[derive(Debug)]
pub(crate) struct Busy<T>(Option<Box<T>>);

pub(crate) trait Idle: Default + 'static {
    /// One that is idle.
    fn idle() -> &'static Self;

    /// Whether nothing would be lost with it.
    fn is_idle(&self) -> bool;
}

impl<T> Default for Busy<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Idle> Busy<T> {
    /// What is there, to take something out.
    pub(crate) fn held(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Gives the memory back, if it holds nothing.
    pub(crate) fn rest(&mut self) {
        self.0.take_if(|held| held.is_idle());
    }
}

impl<T: Idle> Deref for Busy<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(held) => held,
            None => T::idle(),
        }
    }
}

impl<T: Idle> DerefMut for Busy<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}
