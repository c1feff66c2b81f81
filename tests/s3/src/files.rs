//! A directory as objects.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use s3s::dto::{
    CommonPrefix, ETag, ETagCondition, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, Object, StreamingBlob, Timestamp,
};
use s3s::{Body, S3, S3Error, S3Request, S3Response, S3Result, s3_error};

#[derive(Debug)]
pub struct Files {
    pub root: PathBuf,
}

impl Files {
    fn find(&self, bucket: &str, key: &str) -> S3Result<(File, fs::Metadata)> {
        let path = self.root.join(bucket).join(key);
        let is_plain = !key.split('/').any(|part| matches!(part, "" | "." | ".."));
        let file = is_plain.then(|| File::open(path).ok()).flatten();
        let file = file.ok_or_else(|| s3_error!(NoSuchKey))?;
        let meta = file.metadata().map_err(S3Error::internal_error)?;
        match meta.is_file() {
            true => Ok((file, meta)),
            false => Err(s3_error!(NoSuchKey)),
        }
    }
}

fn etag(meta: &fs::Metadata) -> ETag {
    ETag::Strong(format!(
        "{:x}-{:x}-{:x}",
        meta.ino(),
        meta.size(),
        meta.mtime_nsec() + meta.mtime() * 1_000_000_000
    ))
}

fn is(condition: &ETagCondition, tag: &ETag) -> bool {
    match condition {
        ETagCondition::ETag(wanted) => wanted.strong_cmp(tag),
        ETagCondition::Any => true,
    }
}

fn modified(meta: &fs::Metadata) -> Option<Timestamp> {
    meta.modified()
        .ok()
        .map(|time: SystemTime| Timestamp::from(time))
}

#[async_trait::async_trait]
impl S3 for Files {
    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let (file, meta) = self.find(&input.bucket, &input.key)?;
        let tag = etag(&meta);
        if input.if_match.is_some_and(|wanted| !is(&wanted, &tag)) {
            return Err(s3_error!(PreconditionFailed));
        }
        if input.if_none_match.is_some_and(|known| is(&known, &tag)) {
            return Err(s3_error!(NotModified));
        }
        let (range, content_range) = match input.range {
            None => (0..meta.len(), None),
            Some(range) => {
                let range = range.check(meta.len())?;
                let text = format!("bytes {}-{}/{}", range.start, range.end - 1, meta.len());
                (range, Some(text))
            }
        };
        let mut body = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut body, range.start)
            .map_err(S3Error::internal_error)?;
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(body.len() as i64),
            body: Some(StreamingBlob::from(Body::from(Bytes::from(body)))),
            content_range,
            e_tag: Some(tag),
            last_modified: modified(&meta),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let (_, meta) = self.find(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(meta.len() as i64),
            e_tag: Some(etag(&meta)),
            last_modified: modified(&meta),
            ..HeadObjectOutput::default()
        }))
    }

    /// Lists by pages of at most 1000. Only the delimiter "/" is known, and a prefix that
    /// ends with it, or none.
    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        if input.delimiter.as_deref() != Some("/") || !(prefix.is_empty() || prefix.ends_with('/'))
        {
            return Err(s3_error!(NotImplemented));
        }
        let dir = self.root.join(&input.bucket).join(&prefix);
        let mut found = entries(&dir, &prefix);
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let after = input
            .continuation_token
            .clone()
            .or(input.start_after.clone());
        found.retain(|(key, _)| after.as_ref().is_none_or(|after| key > after));
        let most = usize::try_from(input.max_keys.unwrap_or(1000))
            .unwrap_or(0)
            .min(1000);
        let is_truncated = found.len() > most;
        found.truncate(most);
        let next = found.last().map(|(key, _)| key.clone());
        let mut output = ListObjectsV2Output {
            key_count: Some(found.len() as i32),
            is_truncated: Some(is_truncated),
            next_continuation_token: next.filter(|_| is_truncated),
            prefix: input.prefix,
            delimiter: input.delimiter,
            name: Some(input.bucket),
            ..ListObjectsV2Output::default()
        };
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        for (key, meta) in found {
            match meta.is_dir() {
                true => prefixes.push(CommonPrefix { prefix: Some(key) }),
                false => objects.push(Object {
                    e_tag: Some(etag(&meta)),
                    size: Some(meta.len() as i64),
                    last_modified: modified(&meta),
                    key: Some(key),
                    ..Object::default()
                }),
            }
        }
        output.contents = Some(objects);
        output.common_prefixes = Some(prefixes);
        Ok(S3Response::new(output))
    }
}

/// Returns what a directory contains, as keys. A bucket has no empty directories.
fn entries(dir: &Path, prefix: &str) -> Vec<(String, fs::Metadata)> {
    let read = fs::read_dir(dir).into_iter().flatten().flatten();
    let entry = |entry: fs::DirEntry| {
        let meta = entry.metadata().ok()?;
        let name = entry.file_name().into_string().ok()?;
        match meta.is_dir() {
            true if !has_files(&entry.path()) => None,
            true => Some((format!("{prefix}{name}/"), meta)),
            false => Some((format!("{prefix}{name}"), meta)),
        }
    };
    read.filter_map(entry).collect()
}

fn has_files(dir: &Path) -> bool {
    let mut read = fs::read_dir(dir).into_iter().flatten().flatten();
    read.any(|entry| {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        !is_dir || has_files(&entry.path())
    })
}
