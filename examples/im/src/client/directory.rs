//! Asking a directory for a message server: one connection, one question, one answer.

#![forbid(unsafe_code)]

use std::time::Duration;

use uring_netlib::conn::{Call, Connection, Context};
use uring_netlib::{Address, CloseReason, Delivery, Liveness, Netlib};

use super::answer::{self, AskError, Target};
use super::session::Session;
use super::{App, NoReply, Way, decoded};
use crate::messages::{Command, MsgServReq, MsgServRsp};
use crate::program::print;

/// Asks the next directory of the list.
pub(super) fn ask(app: &mut App, net: &mut Netlib<App>) {
    if app.is_leaving {
        return;
    }
    let directories = &app.settings.directories;
    let address = directories[app.asked % directories.len()].clone();
    app.asked += 1;
    let way = app.settings.way;
    print(&format!("asking directory {address} by {way}"));
    let object: Box<dyn Connection<App>> = match way {
        Way::Http => Box::new(HttpQuestion { address: address.clone(), response: Vec::new() }),
        Way::Pdu => Box::new(PduQuestion),
    };
    let handle = match net.connect_object(&address, object) {
        Ok(handle) => handle,
        Err(error) => return app.lose(net, &format!("cannot ask: {error}")),
    };
    app.link = Some(handle);
    let Ok(mut option) = net.option(handle) else { return };
    option.set_liveness(Liveness::new().lifetime(TIMEOUT));
    if way == Way::Http {
        option.set_delivery(Delivery::Push).expect("bytes have no framing to be wrong");
    }
}

/// The answer is there: the connection has served, and the next one goes to where it says.
fn on_answer(app: &mut App, context: &mut Context<'_, App>, answer: Result<Target, AskError>) {
    context.close();
    let net = context.net();
    match answer {
        Ok(Target { prior, backup }) => {
            print(&format!("sent to message server {prior}"));
            // Both are often the same, and then a second attempt is none that helps.
            let backup = (backup != prior).then_some(backup);
            Session::start(app, net, prior, backup);
        }
        Err(error) => app.lose(net, &error.to_string()),
    }
}

/// A question by HTTP.
struct HttpQuestion {
    address: Address,
    response: Vec<u8>,
}

impl Connection<App> for HttpQuestion {
    fn on_confirm(&mut self, app: &mut App, context: &mut Context<'_, App>) {
        let host = &self.address;
        let request =
            format!("GET /msg_server HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let sent = context.send(request.as_bytes());
        app.expect_sent(context, sent);
    }

    fn on_read(&mut self, app: &mut App, context: &mut Context<'_, App>, bytes: &[u8]) {
        self.response.extend_from_slice(bytes);
        if let Some(answer) = answer::from_http(&self.response) {
            on_answer(app, context, answer);
        }
    }

    fn on_close(&mut self, app: &mut App, context: &mut Context<'_, App>, why: CloseReason) {
        app.lose(context.net(), &format!("it did not answer: {why}"));
    }
}

/// A question by PDU.
struct PduQuestion;

impl Connection<App> for PduQuestion {
    fn on_confirm(&mut self, app: &mut App, context: &mut Context<'_, App>) {
        let request = Call::new(MsgServReq::header(), MsgServRsp::COMMAND_ID);
        let called =
            context.call(request, &MsgServReq {}, TIMEOUT, |_: &mut Self, app, context, reply| {
                match decoded::<MsgServRsp>(reply) {
                    // The connection is over, and `on_close` comes next.
                    Err(NoReply::Closed) => {}
                    Err(_) => on_answer(app, context, Err(AskError::Unreadable)),
                    Ok(reply) => on_answer(app, context, answer::from_pdu(&reply)),
                }
            });
        app.expect_sent(context, called);
    }

    fn on_close(&mut self, app: &mut App, context: &mut Context<'_, App>, why: CloseReason) {
        app.lose(context.net(), &format!("it did not answer: {why}"));
    }
}

/// How long a directory may take.
const TIMEOUT: Duration = Duration::from_secs(10);
