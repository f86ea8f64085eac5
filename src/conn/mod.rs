//! A connection as an object: one type per kind of peer, one value per connection.
//!
//! Sits on the surface and adds no mechanism below it: an object stands where a callback would,
//! and `netlib/tell.rs` calls either. Read [`Connection`] first.

#![forbid(unsafe_code)]

mod backoff;
pub(crate) mod call;
mod context;
mod dispatch;
mod set;

use std::any::Any;

pub use backoff::Backoff;
pub use call::{Answer, Call, CallError, CallRefused};
pub use context::Context;
pub use dispatch::{DispatchError, Dispatcher, ErrorHook, Handler};
pub(crate) use set::{MEMBERS_MAX, MemberFactory, Phase, Roster, Watcher};
pub use set::{MemberEnd, MemberInfo, MemberState, SetChange, SetError, SetId};

use crate::event::{CloseReason, Handle, TimerId};
use crate::pdu::Pdu;

/// What one connection does: implemented by applications, called by the event loop.
///
/// Every method is lent the object itself, the application's state, and a [`Context`] that
/// reaches everything else. Rules C1 to C7 of [`Netlib`](crate::Netlib) hold; inside any method
/// every call is allowed, closing and replacing the object included. An object is dropped after
/// its [`on_close`](Self::on_close), or at once when the application closes the connection.
///
/// A panic in a method closes that connection as `CloseReason::Panicked`, and the loop goes on;
/// see [`Options::abort_on_panic`](crate::Options::abort_on_panic).
///
/// ```no_run
/// use std::time::Duration;
/// use uring_netlib::conn::{Connection, Context};
/// use uring_netlib::pdu::Pdu;
/// use uring_netlib::{Netlib, Options};
///
/// struct Echo {
///     count: u64,
/// }
///
/// impl Connection<()> for Echo {
///     fn on_pdu(&mut self, _: &mut (), context: &mut Context<'_, ()>, pdu: Pdu<'_>) {
///         self.count += 1;
///         if context.send(pdu.frame()).is_err() {
///             context.abort();
///         }
///     }
/// }
///
/// let mut net: Netlib<()> = Options::new().build()?;
/// net.listen_objects("127.0.0.1:7000", |_, _| Box::new(Echo { count: 0 }))?;
/// net.eventloop(&mut (), Duration::from_millis(100))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Connection<A>: AsAny {
    /// A listener accepted this connection.
    fn on_connect(&mut self, app: &mut A, context: &mut Context<'_, A>) {
        let _ = (app, context);
    }

    /// The connection that this side asked for is open.
    fn on_confirm(&mut self, app: &mut A, context: &mut Context<'_, A>) {
        let _ = (app, context);
    }

    /// A whole PDU arrived, lent in place; but not the reply to a [call](Context::call).
    fn on_pdu(&mut self, app: &mut A, context: &mut Context<'_, A>, pdu: Pdu<'_>) {
        let _ = (app, context, pdu);
    }

    /// Bytes arrived, with `Delivery::Push`; or are there to be pulled, and the slice is empty.
    fn on_read(&mut self, app: &mut A, context: &mut Context<'_, A>, bytes: &[u8]) {
        let _ = (app, context, bytes);
    }

    /// All that was sent has left.
    fn on_write_complete(&mut self, app: &mut A, context: &mut Context<'_, A>) {
        let _ = (app, context);
    }

    /// There is room again: [`Event::Write`](crate::Event::Write).
    fn on_writable(&mut self, app: &mut A, context: &mut Context<'_, A>) {
        let _ = (app, context);
    }

    /// A timer of this connection is due.
    fn on_timer(&mut self, app: &mut A, context: &mut Context<'_, A>, timer: TimerId) {
        let _ = (app, context, timer);
    }

    /// The connection is over, or could not be opened. The last call, exactly once; it does not
    /// come after the application's own close.
    fn on_close(&mut self, app: &mut A, context: &mut Context<'_, A>, reason: CloseReason) {
        let _ = (app, context, reason);
    }
}

/// Lets [`Netlib::object`](crate::Netlib::object) find out what an object is. Every type has it.
pub trait AsAny {
    /// The object, to be asked for its type.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T: Any> AsAny for T {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Makes the object of a connection that a listener accepted; the handle is the connection's.
pub(crate) type Factory<A> = dyn Fn(&mut A, Handle) -> Box<dyn Connection<A>>;
