//! A list, read page by page, and never more of it at once than fits.

use crate::cluster::decode::{Decode, Item};
use futures::AsyncReadExt;
use kube::Client;
use kube::api::{Api, ListParams, Request};
use serde::Deserialize;
use serde::de::Error;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::ops::Range;

/// Objects of one page.
pub(super) const PAGE: u32 = 200;
/// Longest page that is read, bytes. A single object is never that long: the API server stores up to 1.5 MiB of one.
const LONGEST: usize = 4 << 20;

/// One page of a list. Its objects are decoded one by one.
pub(super) struct Page {
    text: String,
    /// Where in the text the objects are that were not taken yet.
    items: VecDeque<Range<usize>>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
    /// The version of the list.
    pub(super) version: Option<String>,
}

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(default)]
    metadata: Metadata,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

impl Page {
    fn of(text: String) -> serde_json::Result<Self> {
        let list: Text = serde_json::from_str(&text)?;
        let items = list.items.unwrap_or_default().into_iter();
        let begin = text.as_ptr().addr();
        let items = items.map(|item| {
            let from = item.get().as_ptr().addr() - begin;
            from..from + item.get().len()
        });
        let items = items.collect();
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Self {
            items,
            next: given(list.metadata.next),
            version: given(list.metadata.resource_version),
            text,
        })
    }

    /// Takes the next object out of it.
    pub(super) fn take<T: Decode>(&mut self) -> Option<serde_json::Result<Item<T>>> {
        let item = self.items.pop_front()?;
        Some(serde_json::from_str(&self.text[item]))
    }
}

/// Reads the page that `params` begin. Where it is too long, one of fewer objects is read, and so is the next until they are
/// short again.
///
/// # Errors
/// What the API server says.
pub(super) async fn read_page<T: Decode>(
    client: &Client,
    api: &Api<Item<T>>,
    mut params: ListParams,
    limit: &mut u32,
) -> kube::Result<Page> {
    loop {
        params.limit = Some(*limit);
        let request = Request::new(api.resource_url());
        let request = match T::metadata_api() {
            true => request.list_metadata(&params),
            false => request.list(&params),
        };
        let request = request.map_err(kube::Error::BuildRequest)?;
        let mut body = client.request_stream(request).await?;
        let text = read(&mut body).await.map_err(kube::Error::ReadEvents)?;
        match text {
            Some(text) => {
                if text.len() < LONGEST / 4 {
                    *limit = (*limit * 2).min(PAGE);
                }
                let text = String::from_utf8(text).map_err(kube::Error::FromUtf8)?;
                return Page::of(text).map_err(kube::Error::SerdeError);
            }
            None if *limit > 1 => *limit = (*limit / 4).max(1),
            None => {
                let why = format!("one object has more than {LONGEST} bytes");
                return Err(kube::Error::SerdeError(serde_json::Error::custom(why)));
            }
        }
    }
}

/// All of a text; `None`: it is too long. What is left of it is never read, and its connection is closed.
async fn read(body: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let most = u64::try_from(LONGEST).unwrap_or(u64::MAX) + 1;
    body.take(most).read_to_end(&mut text).await?;
    Ok((text.len() <= LONGEST).then_some(text))
}
