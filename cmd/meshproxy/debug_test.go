package main

import "testing"

func TestRedact(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                {`"https://proxy.test/a@v1,direct"`, `"https://proxy.test/a@v1,direct"`},
		"password":               {`https://u:p@proxy.test/x`, `https://REDACTED@proxy.test/x`},
		"an @ in the password":   {`https://u:p@ss@proxy.test/x`, `https://REDACTED@proxy.test/x`},
		"two of them":            {`https://u:p@a.test,https://v:q@b.test|direct`, `https://REDACTED@a.test,https://REDACTED@b.test|direct`},
		"a user alone":           {`https://token@a.test`, `https://REDACTED@a.test`},
		"a token in the query":   {`"https://hook.test/check?token=s3cret&x=1"`, `"https://hook.test/check?REDACTED"`},
		"password and query":     {`Get "https://u:p@hook.test/check?token=s3cret": refused`, `Get "https://REDACTED@hook.test/check?REDACTED": refused`},
		"query before the path":  {`https://u:p@hook.test?k=v`, `https://REDACTED@hook.test?REDACTED`},
		"an invitation":          {`join meshproxy1-pAFY_IFZ-vQ now`, `join REDACTED now`},
		"a client's token":       {`password mpx_ABCDEF234567`, `password REDACTED`},
		"an address of the mesh": {`/ip4/127.0.0.1/tcp/4001/p2p/12D3Koo`, `/ip4/127.0.0.1/tcp/4001/p2p/12D3Koo`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := string(redact([]byte(c.text))); got != c.want {
				t.Errorf("%s becomes %s, want %s", c.text, got, c.want)
			}
		})
	}
}
