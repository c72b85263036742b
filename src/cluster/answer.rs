//! Answers of the API server, read so that only few long ones are in memory at the same time: objects that tenants write may
//! have a megabyte each.

use futures::{AsyncReadExt, io};
use kube::Client;
use kube::core::request;
use tokio::sync::{Semaphore, SemaphorePermit};
use zeroize::Zeroizing;

/// An answer that is longer waits until there is room for it, bytes.
const LONG: usize = 64 * 1024;
/// Long answers in memory at the same time.
static ROOM: Semaphore = Semaphore::const_new(2);
/// Longest JSON of any object, bytes: the store takes one of 1.5 MiB, and what is escaped in it is longer as JSON.
pub const LONGEST: usize = 4 * 1024 * 1024;

/// The text of an answer. It may hold values, so it is wiped and has no `Debug`.
///
/// It is read as text because of an answer that does not decode, the client would log all of it.
pub struct Answer {
    text: Zeroizing<Vec<u8>>,
    /// Its place, if it is long.
    _room: Option<SemaphorePermit<'static>>,
}

impl Answer {
    /// The answer to this request.
    ///
    /// # Errors
    /// What the API server says, or that it says nothing usable.
    pub async fn to(
        client: &Client,
        request: Result<http::Request<Vec<u8>>, request::Error>,
    ) -> kube::Result<Self> {
        let answer = Self::within(client, request, LONGEST).await?;
        answer.ok_or_else(|| kube::Error::Service("its answer is too long".into()))
    }

    /// The same; `None` when it is longer than `longest`, in bytes.
    ///
    /// # Errors
    /// See [`Answer::to`].
    pub async fn within(
        client: &Client,
        request: Result<http::Request<Vec<u8>>, request::Error>,
        longest: usize,
    ) -> kube::Result<Option<Self>> {
        let request = request.map_err(kube::Error::BuildRequest)?;
        let mut body = client.request_stream(request).await?;
        let mut text = Zeroizing::new(Vec::new());
        read(&mut body, &mut text, LONG).await?;
        let mut room = None;
        if text.len() > LONG {
            // It is never closed.
            room = ROOM.acquire().await.ok();
            read(&mut body, &mut text, longest).await?;
        }
        let is_whole = text.len() <= longest;
        Ok(is_whole.then_some(Self { text, _room: room }))
    }

    /// Its text.
    ///
    /// # Errors
    /// When it is none.
    pub fn text(&self) -> kube::Result<&str> {
        str::from_utf8(&self.text).map_err(|error| kube::Error::Service(error.into()))
    }
}

/// Reads on until the end, or until there is more than `most`.
async fn read(
    body: &mut (impl io::AsyncRead + Unpin),
    text: &mut Vec<u8>,
    most: usize,
) -> kube::Result<()> {
    let left = (most + 1).saturating_sub(text.len());
    let read = body.take(left as u64).read_to_end(text).await;
    read.map(drop).map_err(kube::Error::ReadEvents)
}
