//! Several devices in one machine: what each of them does by itself, on a thread of its own.

use super::weights::Model;
use crate::backend::{Backend, BackendError};
use crate::model::{ModelSpec, Params};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What `work` makes of each of `devices`, in their order: on a thread each, or on this one where there is but one. The
/// first error of that order, once all have ended.
pub(crate) fn on_each<D: Send, T: Send, E: Send>(
    devices: impl IntoIterator<Item = D>,
    work: impl Fn(D) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let mut devices: Vec<D> = devices.into_iter().collect();
    if devices.len() < 2 {
        return devices.pop().map(work).into_iter().collect();
    }
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = devices.into_iter().map(|device| scope.spawn(move || work(device))).collect();
        let ended: Vec<_> =
            threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| resume_unwind(panic))).collect();
        ended.into_iter().collect()
    })
}

impl<B: Backend> Model<B> {
    /// [`Model::load`] on every one of `backends` at once, in their order. The parameters are read once for each; the pages
    /// of a mapped file are shared. `progress` is called with the share of all that is done.
    ///
    /// # Errors
    /// As [`Model::load`], the first of their order.
    pub fn load_on_each(
        spec: &Arc<ModelSpec>,
        params: &dyn Params,
        backends: Vec<B>,
        progress: &(dyn Fn(f64) + Sync),
    ) -> Result<Vec<Model<B>>, BackendError> {
        let shares = Mutex::new(vec![0.0; backends.len()]);
        on_each(backends.into_iter().enumerate(), |(device, backend)| {
            Model::load(spec.clone(), params, backend, &|share| {
                let mut shares = shares.lock().unwrap_or_else(PoisonError::into_inner);
                shares[device] = share;
                progress(shares.iter().sum::<f64>() / shares.len() as f64);
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn devices_work_at_once_and_what_they_make_comes_in_their_order() {
        let all_there = Barrier::new(3);
        let made = on_each([1, 2, 3], |n| {
            all_there.wait();
            Ok::<_, ()>(10 * n)
        });
        assert_eq!(made, Ok(vec![10, 20, 30]));
        assert_eq!(on_each([1, 2, 3], |n| if n == 1 { Ok(n) } else { Err(n) }), Err(2));
    }

    #[test]
    fn one_device_works_on_the_calling_thread() {
        assert_eq!(on_each([()], |()| Ok::<_, ()>(thread::current().id())), Ok(vec![thread::current().id()]));
    }
}
