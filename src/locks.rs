//! Locks that outlive a panic: the one way in which this house locks.
//!
//! A thread that panics under a lock poisons it, and whoever asked for the lock with `unwrap` would panic as well, one
//! connection after the other. Here poison is passed over. It may be: what is behind a lock of ours is replaced whole,
//! counted, or added to and taken from, so a panic leaves no half of a change.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// For reading and changing.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For reading, beside others that read.
pub fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// For changing.
pub fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn a_lock_under_which_somebody_panicked_still_opens() {
        let (mutex, shared) = (Mutex::new(1), RwLock::new(1));
        let panics = || {
            let _held = (lock(&mutex), write(&shared));
            panic!("on purpose");
        };
        assert!(catch_unwind(panics).is_err());
        assert!(mutex.is_poisoned() && shared.is_poisoned());
        *lock(&mutex) += 1;
        *write(&shared) += 1;
        assert_eq!((*lock(&mutex), *read(&shared)), (2, 2));
    }
}
