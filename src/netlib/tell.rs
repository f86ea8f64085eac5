//! Calling user code: the one place that does for sockets, whether a callback or an object is
//! told.
//!
//! A panic of user code ends that connection and not the loop. The application's state may be
//! left half-changed by it, as with any panic that is caught; what is the library's own is not, as
//! nothing of it is borrowed during the call (C3).

#![forbid(unsafe_code)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::{fmt, mem, process};

use super::Netlib;
use crate::conn::call::{CallHandler, Calls};
use crate::conn::{Answer, Connection, Context, Factory};
use crate::event::{Callback, CloseReason, Event, Handle, TimerId};
use crate::planted::{self, Bug};
use crate::reactor::{Release, State};

/// Who is told of a socket's events.
pub(crate) enum Owner<A> {
    Callback(Callback<A>),
    Object(Hosted<A>),
    /// A listener's: it makes the objects of what is accepted.
    Factory(Rc<Factory<A>>),
}

/// An object, and what it waits for.
pub(crate) struct Hosted<A> {
    /// `None` while one of its methods runs.
    pub(super) object: Option<Box<dyn Connection<A>>>,
    /// `None` where it never called.
    pub(super) calls: Option<Box<Calls<A>>>,
}

impl<A> Hosted<A> {
    pub(super) fn new(object: Box<dyn Connection<A>>) -> Self {
        Self { object: Some(object), calls: None }
    }
}

// Derived, it would ask the same of `A`, of which nobody holds anything.
impl<A> Default for Hosted<A> {
    fn default() -> Self {
        Self { object: None, calls: None }
    }
}

impl<A> fmt::Debug for Owner<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Callback(_) => "Callback",
            Self::Object(_) => "Object",
            Self::Factory(_) => "Factory",
        })
    }
}

/// What a connection's object is told; the first of them stands for all events.
pub(super) enum Notice<'a, A> {
    Event(Event<'a>),
    WriteComplete,
    Timer(TimerId),
    /// A call's handler is told instead of the object, which is lent to it.
    Answer(CallHandler<A>, Answer<'a>),
}

impl<A> Netlib<A> {
    /// Tells whoever owns the socket, which has not been given up since it was looked at last.
    pub(super) fn tell(&mut self, app: &mut A, handle: Handle, event: Event<'_>) {
        let Some(socket) = self.reactor.sockets.find(handle) else { return };
        let may_be_told = socket.is_owned() || planted::has(Bug::ToldAfterClose);
        assert!(may_be_told, "C2: nothing is told of what its user has given up");
        match socket.owner {
            Owner::Callback(callback) => self.call_back(app, handle, callback, event),
            Owner::Object(_) => self.tell_object(app, handle, Notice::Event(event)),
            // Its connections are told; of the listener's own end nobody is.
            Owner::Factory(_) => {}
        }
    }

    #[inline]
    pub(super) fn call_back(
        &mut self,
        app: &mut A,
        handle: Handle,
        callback: Callback<A>,
        event: Event<'_>,
    ) {
        if self.panics(|net| callback(app, net, handle, event)) {
            self.end_panicked(app, handle);
        }
    }

    /// Tells a connection's object, if an object owns the socket.
    pub(super) fn tell_object(&mut self, app: &mut A, handle: Handle, mut notice: Notice<'_, A>) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        let Owner::Object(hosted) = &mut socket.owner else { return };
        let Some(mut object) = hosted.object.take() else { return };
        if let (Notice::Event(Event::Pdu(pdu)), Some(calls)) = (&notice, &mut hosted.calls)
            && let Some(waiting) = calls.take_replied(pdu)
        {
            self.reactor.alarms.cancel(waiting.alarm);
            notice = Notice::Answer(waiting.handler, Ok(*pdu));
        }
        let has_panicked = self.panics(|net| {
            notify(&mut *object, app, &mut Context::new(net, handle), notice);
        });
        // It goes back, unless it was replaced, or the connection is gone and the object with it.
        if let Some(socket) = self.reactor.owned(handle)
            && let Owner::Object(Hosted { object: place @ None, .. }) = &mut socket.owner
        {
            *place = Some(object);
        } else {
            self.panics(|_| drop(object));
        }
        if has_panicked {
            self.end_panicked(app, handle);
        }
    }

    /// The owner of a connection that a listener accepted; `None` where making it panicked.
    pub(super) fn inherit(
        &mut self,
        app: &mut A,
        listener: Handle,
        handle: Handle,
    ) -> Option<Owner<A>> {
        match &self.reactor.sockets.find(listener)?.owner {
            Owner::Callback(callback) => Some(Owner::Callback(*callback)),
            Owner::Factory(factory) => {
                let (factory, mut made) = (Rc::clone(factory), None);
                self.panics(|_| made = Some(factory(app, handle)));
                made.map(|object| Owner::Object(Hosted::new(object)))
            }
            Owner::Object(_) => None,
        }
    }

    /// Runs user code, and says whether it panicked.
    #[inline]
    pub(super) fn panics(&mut self, code: impl FnOnce(&mut Self)) -> bool {
        match catch_unwind(AssertUnwindSafe(|| code(self))) {
            Ok(()) => false,
            Err(payload) => {
                self.note_panic(payload);
                true
            }
        }
    }

    #[cold]
    fn note_panic(&mut self, payload: Box<dyn Any + Send>) {
        if self.options.abort_on_panic {
            process::abort();
        }
        self.reactor.stats.panics += 1;
        // What the panic carries is user code's as well. A second one would have its own payload.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            mem::forget(second);
        }
    }

    /// Closes a connection whose owner panicked, and tells it why.
    #[cold]
    fn end_panicked(&mut self, app: &mut A, handle: Handle) {
        let Some(socket) = self.reactor.owned(handle) else { return };
        match socket.state() {
            // It panicked at its end, which goes on.
            State::Ending => {}
            State::Connected => self.finish(app, handle, CloseReason::Panicked, Release::Reset),
            State::Idle | State::Listening | State::Connecting => {
                self.finish(app, handle, CloseReason::Panicked, Release::Drop);
            }
            State::Flushing | State::Lingering | State::Cancelling => {}
        }
    }

    /// Counts what a peer got wrong above its framing.
    pub(crate) fn count_error(&mut self, handle: Handle) -> u32 {
        self.reactor.stats.dispatch_errors += 1;
        let Some(socket) = self.reactor.owned(handle) else { return 0 };
        socket.errors = socket.errors.saturating_add(1);
        socket.errors
    }

    pub(crate) fn set_object(&mut self, handle: Handle, object: Box<dyn Connection<A>>) {
        let Some(socket) = self.reactor.owned(handle) else { return };
        let former = match &mut socket.owner {
            // Its calls stay, for an object of the same type.
            Owner::Object(hosted) => hosted.object.replace(object),
            Owner::Callback(_) | Owner::Factory(_) => {
                socket.set_owner(Owner::Object(Hosted::new(object)));
                None
            }
        };
        self.panics(|_| drop(former));
    }

    /// The object of a connection, if it is a `T` and none of its methods is running.
    ///
    /// ```
    /// use uring_netlib::conn::Connection;
    /// use uring_netlib::{Handle, Netlib};
    ///
    /// struct Player {
    ///     score: u32,
    /// }
    ///
    /// impl Connection<()> for Player {}
    ///
    /// fn score_of(net: &mut Netlib<()>, player: Handle) -> Option<u32> {
    ///     net.object::<Player>(player).map(|player| player.score)
    /// }
    /// # let _ = score_of;
    /// ```
    pub fn object<T: Connection<A> + 'static>(&mut self, handle: Handle) -> Option<&mut T> {
        let Owner::Object(hosted) = &mut self.reactor.owned(handle)?.owner else { return None };
        hosted.object.as_mut()?.as_mut().as_any_mut().downcast_mut()
    }
}

fn notify<A>(
    object: &mut dyn Connection<A>,
    app: &mut A,
    context: &mut Context<'_, A>,
    notice: Notice<'_, A>,
) {
    match notice {
        Notice::Event(Event::Connect { .. }) => object.on_connect(app, context),
        Notice::Event(Event::Confirm) => object.on_confirm(app, context),
        Notice::Event(Event::Read(bytes)) => object.on_read(app, context, bytes),
        Notice::Event(Event::Pdu(pdu)) => object.on_pdu(app, context, pdu),
        Notice::Event(Event::Write) => object.on_writable(app, context),
        Notice::Event(Event::Close(reason)) => object.on_close(app, context, reason),
        Notice::WriteComplete => object.on_write_complete(app, context),
        Notice::Timer(timer) => object.on_timer(app, context, timer),
        Notice::Answer(handler, answer) => {
            // An object that took the caller's place does not wait for the reply.
            if let (false, Ok(pdu)) = (handler(object, app, context, answer), answer) {
                object.on_pdu(app, context, pdu);
            }
        }
        Notice::Event(Event::Timer { .. } | Event::Loop { .. }) => {
            unreachable!("timers and loops have no socket")
        }
    }
}
