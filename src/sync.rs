//! Locks a Mutex even if it is poisoned.
//!
//! A panic while a lock is held poisons the lock, and `lock().unwrap()` in other threads would then panic too. Ignoring the
//! poison is safe here: data under these locks is only replaced as a whole, counted, inserted or removed, so a panic leaves
//! no half-made change.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, even if it is poisoned.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn lock_is_usable_after_a_panic_poisoned_it() {
        let mutex = Mutex::new(1);
        let panics = || {
            let _held = lock(&mutex);
            panic!("on purpose");
        };
        assert!(catch_unwind(panics).is_err());
        assert!(mutex.is_poisoned());
        *lock(&mutex) += 1;
        assert_eq!(*lock(&mutex), 2);
    }
}
