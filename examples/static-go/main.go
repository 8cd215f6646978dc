// A web app of one file that needs nothing around it.
package main

import (
	"fmt"
	"net/http"
)

func main() {
	http.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) { fmt.Fprintln(answer, "shop") })
	http.ListenAndServe(":8000", nil)
}
