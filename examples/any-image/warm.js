// The task "warm": the app's own code, against the app that has just answered. Its exit code is the task's.
const { STARTUP_TASK, STARTUP_PHASE } = process.env;
fetch("http://127.0.0.1:8080/").then(async (answer) => {
  const text = await answer.text();
  console.log(`${STARTUP_TASK} in ${STARTUP_PHASE}: ${answer.status}, ${text.trim()}`);
  if (!answer.ok) process.exitCode = 1;
});
