//! A request's head comes to the same however it is split; its refusals are whole responses.
//!
//! The first byte is the size of the pieces.

#![no_main]

use im_example::http::{HEAD_LEN_MAX, Refusal, RequestHead};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((size, head)) = bytes.split_first() else { return };
    let (judgement, taken) = judge(head, head.len().max(1));
    let (of_bytes, needed) = judge(head, 1);
    let (of_pieces, _) = judge(head, usize::from(*size).max(1));
    assert_eq!((of_bytes, of_pieces), (judgement, judgement), "however it is split");
    assert!(needed <= taken && needed <= HEAD_LEN_MAX, "nobody has to send more than the limit");
    match judgement {
        None => assert!(head.len() < HEAD_LEN_MAX, "a head that is too long is refused"),
        Some(Ok(())) => {
            let start = head.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(0);
            assert!(head[start..].starts_with(b"GET "), "only GET is served");
        }
        Some(Err(refusal)) => check(refusal),
    }
});

/// What a head comes to, and how many bytes it took to know.
fn judge(head: &[u8], piece_len: usize) -> (Option<Result<(), Refusal>>, usize) {
    let (mut request, mut taken) = (RequestHead::default(), 0);
    for piece in head.chunks(piece_len) {
        taken += piece.len();
        let judgement = request.push(piece);
        if judgement.is_some() {
            return (judgement, taken);
        }
    }
    (None, taken)
}

fn check(refusal: Refusal) {
    let response = refusal.response();
    let end = response.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = str::from_utf8(&response[..end]).expect("a head is text");
    let length = format!("\r\nContent-Length:{}\r\n", response.len() - end - 4);
    assert!(head.starts_with("HTTP/1.1 4") && head.contains(&length), "{head}");
}
