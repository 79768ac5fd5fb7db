// SPDX-License-Identifier: MIT
//! What may go to and be used from which thread, stated when this is compiled.

use imagine::{Buffer, CancelToken, Context, Error, Event, Frames, Job, JobOptions, Model, Text, Vae};

fn send<T: Send>() {}
fn send_and_sync<T: Send + Sync>() {}

/// Does not compile for a type that is Sync: there would be two candidates for `some`.
macro_rules! not_sync {
    ($($kind:ty),*) => {$({
        trait Ambiguous<A> {
            fn some() {}
        }
        impl<T: ?Sized> Ambiguous<()> for T {}
        impl<T: ?Sized + Sync> Ambiguous<u8> for T {}
        <$kind as Ambiguous<_>>::some();
    })*};
}

#[test]
fn shared_or_owned() {
    send_and_sync::<Context>();
    send_and_sync::<Model>();
    send_and_sync::<Buffer>();
    send_and_sync::<Frames>();
    send_and_sync::<CancelToken>();
    send_and_sync::<Event>();
    send_and_sync::<Error>();
    send_and_sync::<JobOptions>();
    send::<Job>();
    send::<Text>();
    send::<Vae>();
    not_sync!(Job, Text, Vae);
}
