//! Locks a Mutex or RwLock even if it is poisoned.
//!
//! A panic while a lock is held poisons the lock, and `lock().unwrap()` in other threads would then panic too. Ignoring the
//! poison is safe here: data under these locks is only replaced as a whole, counted, inserted or removed, so a panic leaves
//! no half-made change.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks a mutex, even if it is poisoned.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks `lock` for reading, even if it is poisoned.
pub fn read_lock<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks `lock` for writing, even if it is poisoned.
pub fn write_lock<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn lock_is_usable_after_a_panic_poisoned_it() {
        let (mutex, shared) = (Mutex::new(1), RwLock::new(1));
        let panics = || {
            let _held = (lock(&mutex), write_lock(&shared));
            panic!("on purpose");
        };
        assert!(catch_unwind(panics).is_err());
        assert!(mutex.is_poisoned() && shared.is_poisoned());
        *lock(&mutex) += 1;
        *write_lock(&shared) += 1;
        assert_eq!((*lock(&mutex), *read_lock(&shared)), (2, 2));
    }
}
