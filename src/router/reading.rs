//! The body of an answer: from the process's connection, which is free again at its end, to the client.

use std::io;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use crate::http1::Length;

use super::buffer::Buffer;
use super::charge::Charge;
use super::exchange::Head;
use super::inbound::Found;
use super::inbound::Inbound;
use super::upstream::Connection;
use super::upstream::InFlight;

/// An answer, of which the head has come.
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) lines: Vec<u8>,
    pub(super) length: Length,
    pub(super) body: Reading,
}

/// A body that is read as it is passed on.
pub(super) struct Reading {
    inbound: Inbound,
    /// What was read once the connection is free again.
    rest: Buffer,
    source: Option<Source>,
}

struct Source {
    connection: Connection,
    flight: InFlight,
    charge: Charge,
    reusable: bool,
}

impl Answered {
    pub(super) fn new(head: Head, connection: Connection, flight: InFlight, charge: Charge) -> Self {
        let Head { status, lines, body, reusable } = head;
        let source = Source { connection, flight, charge, reusable };
        let inbound = Inbound::new(body);
        let mut reading = Reading { inbound, rest: Buffer::default(), source: Some(source) };
        if reading.inbound.is_read() {
            reading.free();
        }
        Self { status, lines, length: body, body: reading }
    }
}

impl Reading {
    /// Has the chunks passed on as they are; only before anything was read.
    pub(super) fn raw(mut self) -> Self {
        self.inbound = self.inbound.raw();
        self
    }

    /// Waits for more, which [`Self::portion`] then shows; false at the end.
    ///
    /// # Errors
    /// When the process breaks off.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let polled = self.poll_source(context);
        if let Poll::Ready(Err(error)) = &polled
            && let Some(Source { flight, charge, .. }) = self.source.take()
        {
            // The client has a part of the answer and gets no end of it: its connection is broken.
            tracing::warn!("a response broke off: {}: {error}", flight.upstream().socket());
            charge.add(|counts| counts.cut += 1);
        }
        polled
    }

    fn poll_source(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let buffer = match &mut self.source {
                Some(source) => &mut source.connection.buffer,
                None => &mut self.rest,
            };
            let found = self.inbound.look(buffer)?;
            if self.inbound.is_read() {
                self.free();
            }
            match found {
                Found::Portion => return Poll::Ready(Ok(true)),
                Found::Over => return Poll::Ready(Ok(false)),
                Found::Nothing => {}
            }
            let Some(Source { connection, .. }) = &mut self.source else {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            };
            if ready!(connection.buffer.poll_fill(context, &mut connection.stream))? == 0 {
                self.inbound.closed()?;
            }
        }
    }

    /// Lets the process go as soon as it has said everything, however slow the client is.
    fn free(&mut self) {
        let Some(Source { mut connection, flight, reusable, .. }) = self.source.take() else { return };
        self.rest = std::mem::take(&mut connection.buffer);
        let unasked = self.inbound.portion(&self.rest).len() < self.rest.data().len();
        if reusable && !unasked {
            flight.upstream().keep(connection);
        }
    }

    pub(super) fn portion(&self) -> &[u8] {
        self.inbound.portion(match &self.source {
            Some(source) => &source.connection.buffer,
            None => &self.rest,
        })
    }

    /// So much of the portion was passed on.
    pub(super) fn took(&mut self, count: usize) {
        let buffer = match &mut self.source {
            Some(source) => &mut source.connection.buffer,
            None => &mut self.rest,
        };
        self.inbound.took(buffer, count);
    }

    /// Whether there is nothing left of it.
    pub(super) fn is_over(&self) -> bool {
        self.inbound.is_over()
    }
}
