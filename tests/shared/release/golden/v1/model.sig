{
  "dsseEnvelope": {
    "payload": "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJwcmVkaWNhdGUiOnsicmVzb3VyY2VzIjpbeyJhbGdvcml0aG0iOiJzaGEyNTYiLCJkaWdlc3QiOiIxZWY1NTljZDRmYTEzNGM3MjNmMmQ1YmM3OTQxMDgzOThmODA5NzBhZGQyNzJmYTdlZWU0M2Q1ZDMxMjQ5NTQyIiwibmFtZSI6Im1vZGVsLnNhZmV0ZW5zb3JzIn0seyJhbGdvcml0aG0iOiJzaGEyNTYiLCJkaWdlc3QiOiIyN2RkOGVkNDRhODNmZjk0ZDU1N2Y5ZmQwNDEyZWQ1YThjYmNhNjllYTA0OTIyZDg4YzAxMTg0YTA3MzAwYTVhIiwibmFtZSI6Im1vcmUvbm90ZXMudHh0In1dLCJzZXJpYWxpemF0aW9uIjp7ImFsbG93X3N5bWxpbmtzIjpmYWxzZSwiaGFzaF90eXBlIjoic2hhMjU2IiwiaWdub3JlX3BhdGhzIjpbIm1vZGVsLnNpZyJdLCJtZXRob2QiOiJmaWxlcyJ9fSwicHJlZGljYXRlVHlwZSI6Imh0dHBzOi8vbW9kZWxfc2lnbmluZy9zaWduYXR1cmUvdjEuMCIsInN1YmplY3QiOlt7ImRpZ2VzdCI6eyJzaGEyNTYiOiIxMTcxMDFmZTU1YmY4MDFmNmVlYTQ0NzFmODVjMDY0MzJiNWI5Y2ZiMmY4YzRiZjBhYmQ0MzNlMjE0MjFkNjNmIn0sIm5hbWUiOiJnb2xkZW4ifV19",
    "payloadType": "application/vnd.in-toto+json",
    "signatures": [
      {
        "keyid": "",
        "sig": "MEQCIAoKi5wsZmA8LMeMIuSEHuTnLxGHgnnnoAIX5EhWzQX0AiBIT/eEQ0ZN4T9fYlYvpg0ogzVI/rL9jmAs4QD3iT6m2w=="
      }
    ]
  },
  "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
  "verificationMaterial": {
    "publicKey": {
      "hint": "052a3fa60d1238c575a2fff24aa76f1c14c156d50a2dafabf64b394fc2627238"
    },
    "tlogEntries": []
  }
}
