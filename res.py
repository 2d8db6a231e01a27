import re,sys
p,how=sys.argv[1],sys.argv[2]
s=open(p).read()
def f(m):
    a,b=m.group(1),m.group(2)
    return {'ours':a,'theirs':b,'both':a+b}[how]
s=re.sub(r'<<<<<<< [^\n]*\n(.*?)=======\n(.*?)>>>>>>> [^\n]*\n',f,s,flags=re.S)
open(p,'w').write(s)
