//! A connection wrapped in a layer that sees what is read. Otherwise bytes pass through unchanged.

use std::{
    io,
    ops::Deref,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The layer around a connection.
pub trait Layer: Unpin {
    /// Before each read. An error ends the connection.
    ///
    /// # Errors
    /// If nothing more is to be read.
    fn before_read(&mut self, _: &mut Context<'_>) -> io::Result<()> {
        Ok(())
    }

    /// The bytes that a read brought, which it may change.
    fn read(&mut self, _: &mut [u8]) {}
}

/// A stream and the layer around it, which lives as long.
pub struct Layered<S, L> {
    stream: S,
    layer: L,
}

impl<S, L> Layered<S, L> {
    pub(super) const fn new(stream: S, layer: L) -> Self {
        Self { stream, layer }
    }

    pub(super) const fn layer(&self) -> &L {
        &self.layer
    }
}

impl<S, L> Deref for Layered<S, L> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin, L: Layer> AsyncRead for Layered<S, L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.layer.before_read(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.layer.read(&mut buffer.filled_mut()[before..]);
        read
    }
}

impl<S: AsyncWrite + Unpin, L: Layer> AsyncWrite for Layered<S, L> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
