//! Calls: a request goes out, and its handler is told the reply, or why there is none.
//!
//! A reply is told by `tell.rs`, in place of the object's `on_pdu`. The table of a connection's
//! calls is in `conn/call.rs`.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::Netlib;
use super::tell::{Notice, Owner};
use crate::conn::call::{Waiting, erase};
use crate::conn::{Answer, Call, CallError, CallRefused, Context};
use crate::event::{CloseReason, Handle};
use crate::options::Delivery;
use crate::pdu::HEADER_LEN;
use crate::reactor::{Alarm, SendStatus};

impl<A> Netlib<A> {
    /// Sends a request on a connection whose object is a `C`, and calls `handler` with the reply:
    /// [`Context::call`], for another connection than one's own.
    ///
    /// ```
    /// use std::time::Duration;
    /// use uring_netlib::conn::{Call, CallRefused, Connection};
    /// use uring_netlib::pdu::Header;
    /// use uring_netlib::{Handle, Netlib};
    ///
    /// struct Storage {
    ///     answers: u32,
    /// }
    ///
    /// impl Connection<()> for Storage {}
    ///
    /// const COUNT: Call = Call::new(Header::new(7, 1), 2);
    ///
    /// fn ask(net: &mut Netlib<()>, storage: Handle) -> Result<(), CallRefused> {
    ///     let limit = Duration::from_secs(5);
    ///     net.call(storage, COUNT, &(), limit, |storage: &mut Storage, _, _, answer| {
    ///         storage.answers += u32::from(answer.is_ok());
    ///     })?;
    ///     Ok(())
    /// }
    /// # let _ = ask;
    /// ```
    ///
    /// # Errors
    /// [`CallRefused`]: nothing was sent, and `handler` will not be called.
    pub fn call<C, F>(
        &mut self,
        handle: Handle,
        call: Call,
        message: &impl prost::Message,
        timeout: Duration,
        handler: F,
    ) -> Result<SendStatus, CallRefused>
    where
        C: 'static,
        F: FnOnce(&mut C, &mut A, &mut Context<'_, A>, Answer<'_>) + 'static,
    {
        let limit = self.options.calls_max;
        let socket = self.reactor.sendable(handle)?;
        let Delivery::Pdu(spec) = socket.delivery() else { return Err(CallRefused::NoHeader) };
        if usize::from(spec.header_len()) != HEADER_LEN {
            return Err(CallRefused::NoHeader);
        }
        let Owner::Object(hosted) = &mut socket.owner else { return Err(CallRefused::NoObject) };
        // While one of its methods runs the object is not there to be asked.
        if hosted.object.as_mut().is_some_and(|object| !object.as_mut().as_any_mut().is::<C>()) {
            return Err(CallRefused::NoObject);
        }
        let seq = hosted.calls.get_or_insert_default().next_seq(limit);
        let seq = seq.ok_or(CallRefused::TooMany { limit: limit.into() })?;
        let call = Call { header: call.header.with_seq(seq), ..call };
        let status = self.send_pdu(handle, call.header, message)?;
        let deadline = self.deadline(timeout.max(Duration::from_millis(1)));
        let alarm = self.reactor.alarms.insert(deadline, Alarm::Call(handle, seq));
        let Some(Owner::Object(hosted)) = self.owner_mut(handle) else {
            unreachable!("encoding a message changes no owner")
        };
        let calls = hosted.calls.get_or_insert_default();
        calls.insert(Waiting { call, alarm, handler: erase(handler) });
        Ok(status)
    }

    /// A call has waited for long enough.
    pub(super) fn on_call_timeout(&mut self, app: &mut A, handle: Handle, seq: u16) {
        let Some(Owner::Object(hosted)) = self.owner_mut(handle) else { return };
        let Some(waiting) = hosted.calls.as_mut().and_then(|calls| calls.take(seq)) else { return };
        let answer = Notice::Answer(waiting.handler, Err(CallError::TimedOut));
        self.tell_object(app, handle, answer);
    }

    /// Tells all calls of a connection that it ended.
    pub(super) fn close_calls(&mut self, app: &mut A, handle: Handle, reason: CloseReason) {
        let Some(Owner::Object(hosted)) = self.owner_mut(handle) else { return };
        let Some(calls) = hosted.calls.take() else { return };
        for waiting in calls.into_waiting() {
            self.reactor.alarms.cancel(waiting.alarm);
            let answer = Notice::Answer(waiting.handler, Err(CallError::Closed(reason)));
            self.tell_object(app, handle, answer);
        }
    }

    /// Gives a socket another owner. The former one comes back with calls that nobody answers.
    pub(super) fn change_owner(&mut self, handle: Handle, owner: Owner<A>) -> Option<Owner<A>> {
        let former = self.reactor.sockets.find_mut(handle)?.set_owner(owner);
        if let Owner::Object(hosted) = &former {
            for alarm in hosted.calls.iter().flat_map(|calls| calls.alarms()) {
                self.reactor.alarms.cancel(alarm);
            }
        }
        Some(former)
    }

    fn owner_mut(&mut self, handle: Handle) -> Option<&mut Owner<A>> {
        Some(&mut self.reactor.sockets.find_mut(handle)?.owner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::conn::Connection;
    use crate::event::Event;
    use crate::options::{Backend, Options};
    use crate::pdu::Header;

    struct Client;

    impl Connection<bool> for Client {
        fn on_confirm(&mut self, is_open: &mut bool, _: &mut Context<'_, bool>) {
            *is_open = true;
        }
    }

    fn ignore(_: &mut bool, _: &mut Netlib<bool>, _: Handle, _: Event<'_>) {}

    /// However its calls end, a connection leaves no alarm of theirs behind.
    #[test]
    fn no_alarm_outlives_its_call() {
        type End = fn(&mut Netlib<bool>, Handle, &std::net::TcpStream);
        let ends: [(&str, End); 5] = [
            ("replies", |_, _, peer| {
                for seq in [1, 2] {
                    let (header, mut bytes) = (Header::new(1, 2).with_seq(seq), Vec::new());
                    crate::pdu::encode_bytes(&header, &[], 16, &mut bytes).unwrap();
                    std::io::Write::write_all(&mut &*peer, &bytes).unwrap();
                }
            }),
            ("the peer's end", |_, _, peer| peer.shutdown(std::net::Shutdown::Both).unwrap()),
            ("a close", |net, client, _| net.close(client).unwrap()),
            ("an abort", |net, client, _| net.abort(client).unwrap()),
            ("a callback", |net, client, _| net.option(client).unwrap().set_callback(ignore)),
        ];
        for backend in [Backend::Auto, Backend::Epoll] {
            for (what, end) in ends {
                let options = Options::new().backend(backend);
                let mut net = options.close_timeout(Duration::from_millis(1)).build().unwrap();
                let server = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = server.local_addr().unwrap();
                let client = net.connect_object(address, Box::new(Client)).unwrap();
                let mut is_open = false;
                while !is_open {
                    net.turn(&mut is_open, Duration::from_secs(5)).unwrap();
                }
                let (peer, _) = server.accept().unwrap();
                for _ in 0..2 {
                    let (call, limit) = (Call::new(Header::new(1, 1), 2), Duration::from_secs(600));
                    net.call(client, call, &(), limit, |_: &mut Client, _, _, _| {}).unwrap();
                }
                net.turn(&mut is_open, Duration::ZERO).unwrap();
                end(&mut net, client, &peer);
                for _ in 0..20 {
                    net.turn(&mut is_open, Duration::from_millis(1)).unwrap();
                }
                while let Some((_, _, alarm)) = net.reactor.alarms.pop_expired(u64::MAX) {
                    assert!(!matches!(alarm, Alarm::Call(..)), "{what} on {backend}");
                }
            }
        }
    }
}
